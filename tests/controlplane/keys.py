"""The access keys the stand-in knows, and whose they are."""

import secrets
import string
import time
from dataclasses import dataclass

_ALPHABET = string.ascii_uppercase + "234567"


@dataclass(frozen=True)
class Key:
    access_key_id: str
    secret_access_key: str
    token: str | None  # None for a long-term key
    expires_at: float | None
    arn: str  # what sts:GetCallerIdentity answers
    role_arn: str | None
    kind: str  # "instance", "task" or "execution"
    owner: str  # container instance id or task ARN


class Keyring:
    def __init__(self, account, clock=time.time):
        self.account = account
        self.clock = clock
        self._keys = {}

    def add_static(self, access_key_id, secret_access_key):
        arn = f"arn:aws:iam::{self.account}:user/standin"
        key = Key(access_key_id, secret_access_key, None, None, arn, None, "instance", "standin")
        self._keys[access_key_id] = key
        return key

    def issue(self, role_arn, session, kind, owner, lifetime):
        """A new temporary key of a role, valid for lifetime seconds."""
        self._forget_old()
        role = role_arn.rsplit("/", 1)[-1]
        key = Key(
            access_key_id="ASIA" + _random(16),
            secret_access_key=secrets.token_urlsafe(30),
            token=secrets.token_urlsafe(300),
            expires_at=self.clock() + lifetime,
            arn=f"arn:aws:sts::{self.account}:assumed-role/{role}/{session}",
            role_arn=role_arn,
            kind=kind,
            owner=owner,
        )
        self._keys[key.access_key_id] = key
        return key

    def add(self, key):
        self._keys[key.access_key_id] = key

    def find(self, access_key_id):
        return self._keys.get(access_key_id)

    def _forget_old(self):
        """Keys an hour past their end are forgotten; until then they are told they expired."""
        limit = self.clock() - 3600
        for name in [k for k, v in self._keys.items() if v.expires_at and v.expires_at < limit]:
            del self._keys[name]


def _random(length):
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def iso_time(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
