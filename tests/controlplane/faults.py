"""Faults that a test puts between a client and a service.

A fault matches a service and an operation and is spent `count` times. HTTP services take it
before the request is handled or, with when=after, in place of the answer to a request that
has been handled. In ACS and TCS sessions the operation is "connect" for the handshake or the
name of a message in either direction.
"""

import asyncio
import itertools
import socket
import struct
from dataclasses import dataclass, field

from aiohttp import web

from .errors import AdminError

SERVICES = ("ecs", "acs", "tcs", "logs", "ecr", "sts", "imds")
HTTP_FAULTS = ("drop", "reset", "hang", "delay", "status", "throttle", "malformed")
FRAME_FAULTS = ("drop", "reset", "delay", "malformed", "close")
MEMBERS = ("match", "fault", "count", "delay", "status", "error", "message", "body", "code", "when")


@dataclass
class Fault:
    id: int
    service: str
    operation: str | None  # None: all operations of an HTTP service
    kind: str
    count: int | None = None  # None: until cleared
    delay: float = 0.0
    status: int = 503
    error: str = "ServerException"
    message: str = "Service Unavailable"
    body: str = '{"truncated": [1, {"and'  # of a malformed answer or frame
    code: int = 1011  # of a close
    when: str = "before"
    hits: int = field(default=0)

    def matches(self, service, operation):
        if self.count is not None and self.hits >= self.count:
            return False
        return self.service == service and self.operation in (None, operation)


class Faults:
    def __init__(self):
        self.items = []
        self._ids = itertools.count(1)

    def add(self, document):
        fault = _from_json(next(self._ids), document)
        self.items.append(fault)
        return fault

    def clear(self, fault_id=None):
        before = len(self.items)
        self.items = [f for f in self.items if fault_id is not None and f.id != fault_id]
        if fault_id is not None and len(self.items) == before:
            raise AdminError(f"no fault with id {fault_id}", 404)

    def take(self, service, operation, when="before"):
        """The first fault that matches, counted as used, or None."""
        for fault in self.items:
            if fault.when == when and fault.matches(service, operation):
                fault.hits += 1
                return fault
        return None


def _from_json(fault_id, document):
    if not isinstance(document, dict) or not isinstance(document.get("match"), dict):
        raise AdminError('a fault needs "match": {"service": ..., "operation": ...}')
    for name in sorted(set(document) - set(MEMBERS)):
        raise AdminError(f"unknown member '{name}' of a fault; known: {', '.join(MEMBERS)}")
    match = document["match"]
    for name in sorted(set(match) - {"service", "operation"}):
        raise AdminError(f"unknown member '{name}' of match; known: service, operation")
    service, operation = match.get("service"), match.get("operation")
    if service not in SERVICES:
        raise AdminError(f"unknown service '{service}'; known: {', '.join(SERVICES)}")
    kind = document.get("fault")
    allowed = HTTP_FAULTS
    if service in ("acs", "tcs"):
        if not operation:
            raise AdminError(f"a fault of {service} needs an operation: connect or a message name")
        if operation != "connect":
            allowed = FRAME_FAULTS
    if kind not in allowed:
        raise AdminError(f"unknown fault '{kind}' for {service}; known: {', '.join(allowed)}")
    fault = Fault(fault_id, service, operation, kind)
    if kind == "throttle":
        fault.status, fault.error, fault.message = 400, "ThrottlingException", "Rate exceeded"
    if kind == "delay" and "delay" not in document:
        raise AdminError('a fault "delay" needs "delay": seconds')
    for name in ("count", "delay", "status", "error", "message", "body", "code", "when"):
        value = document.get(name)
        if value is None:
            continue
        if not _valid(name, value):
            raise AdminError(f"{name} of a fault cannot be {value!r}")
        setattr(fault, name, value)
    if fault.when == "after" and (service in ("acs", "tcs", "imds") or kind == "delay"):
        raise AdminError("when=after is for ecs, logs, ecr and sts, and not for delay")
    return fault


def _valid(name, value):
    if name in ("error", "message", "body"):
        return isinstance(value, str)
    if name == "when":
        return value in ("before", "after")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        return False
    if name == "status":
        return isinstance(value, int) and 400 <= value <= 599
    if name == "code":
        return isinstance(value, int) and 1000 <= value <= 4999
    return name == "delay" or (isinstance(value, int) and value > 0)


async def apply_http(fault, request, error_answer):
    """Do to an HTTP request what the fault says; None when the request goes on (delay)."""
    if fault.kind == "delay":
        await asyncio.sleep(fault.delay)
        return None
    if fault.kind == "reset":
        reset(request.transport)
        return web.Response(status=500)  # nobody can read it
    if fault.kind == "drop":
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    if fault.kind == "hang":
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.1)
        return web.Response(status=500)
    if fault.kind == "malformed":
        return web.Response(
            text=fault.body, headers={"Content-Type": "application/x-amz-json-1.1"}
        )
    return error_answer(fault.error, fault.message, fault.status)


def reset(transport):
    """Close a connection with RST rather than FIN."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
