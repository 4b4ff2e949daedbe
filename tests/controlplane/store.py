"""Everything the stand-in knows: clusters, instances, task definitions, tasks, keys, calls."""

import collections
import time
import uuid
from dataclasses import dataclass, field

from .errors import ApiError
from .faults import Faults
from .instance import now_ms
from .keys import Keyring
from .violations import Violations


@dataclass
class Options:
    """What `serve` was told; each field is one option of the command line."""

    listen: str = "127.0.0.1"
    port: int = 0
    imds_listen: str = "127.0.0.1"
    imds_port: int = 0
    admin_port: int = 0
    dir: str = ""
    name: list = field(default_factory=list)
    region: str = "us-west-2"
    account: str = "111122223333"
    cluster: list = field(default_factory=lambda: ["default"])
    access_key_id: str = "AKIASTANDINEXAMPLE00"
    secret_access_key: str = "standin/secret/EXAMPLEKEY"
    instance_id: str = "i-0123456789abcdef0"
    instance_type: str = "m5.large"
    availability_zone: str = ""
    instance_role: str = "ecsInstanceRole"
    imds_credentials_seconds: float = 21600
    task_credentials_seconds: float = 21600
    credentials_refresh_seconds: float = 3600
    heartbeat_seconds: float = 30
    heartbeat_ack_seconds: float = 30
    resend_seconds: float = 60
    ecr_password: str = "standin-registry-password"
    ecr_proxy_endpoint: str = ""
    awslogs_endpoint: bool = True


class Cluster:
    def __init__(self, name, region, account):
        self.name = name
        self.arn = f"arn:aws:ecs:{region}:{account}:cluster/{name}"


class Store:
    CALLS = 20000

    def __init__(self, options):
        self.options = options
        self.region = options.region
        self.account = options.account
        self.availability_zone = options.availability_zone or options.region + "a"
        self.violations = Violations()
        self.faults = Faults()
        self.keyring = Keyring(options.account)
        self.static_key = self.keyring.add_static(
            options.access_key_id, options.secret_access_key
        )
        self.clusters = {}
        self.instances = {}
        self.task_definitions = {}  # family -> list of documents, the revision is the position
        self.tasks = {}
        self.calls = collections.deque(maxlen=self.CALLS)
        self.acs = None  # set by the server
        # Begins with the time, so that an agent which has outlived a stand-in takes our manifests.
        self._sequence = int(time.time()) - 1735689600
        for name in options.cluster:
            self.create_cluster(name)

    def next_sequence(self):
        self._sequence += 1
        return self._sequence

    def create_cluster(self, name):
        if name not in self.clusters:
            self.clusters[name] = Cluster(name, self.region, self.account)
        return self.clusters[name]

    def cluster(self, identifier):
        """The cluster with that name or ARN; ClusterNotFoundException."""
        name = (identifier or "default").rsplit("/", 1)[-1]
        cluster = self.clusters.get(name)
        if cluster is None or (identifier or "").startswith("arn:") and cluster.arn != identifier:
            raise ApiError("ClusterNotFoundException", "Cluster not found.")
        return cluster

    def instance(self, identifier):
        """The container instance with that id or ARN, or None."""
        if identifier in self.instances:
            return self.instances[identifier]
        for instance in self.instances.values():
            if instance.id == identifier:
                return instance
        return None

    def task(self, identifier):
        """The task with that id or ARN, or None; an id may be shortened if it stays unique."""
        if identifier in self.tasks:
            return self.tasks[identifier]
        found = [t for t in self.tasks.values() if identifier and t.id.startswith(identifier)]
        return found[0] if len(found) == 1 else None

    def new_task_arn(self, cluster):
        task_id = uuid.uuid4().hex
        return f"arn:aws:ecs:{self.region}:{self.account}:task/{cluster.name}/{task_id}"

    def add_call(self, service, operation, status, error, key, request=None):
        call = {
            "ms": now_ms(),
            "service": service,
            "operation": operation,
            "status": status,
            "error": error,
            "caller": key.arn if key else None,
        }
        if request is not None:
            call["request"] = request
        self.calls.append(call)


@dataclass(frozen=True)
class Caller:
    """Who makes a call, under which host:port it reached us, and how it calls itself."""

    key: object
    host: str
    user_agent: str
