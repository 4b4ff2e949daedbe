"""The process: listens, tells the services apart, verifies signatures, applies faults."""

import asyncio
import gzip
import json
import os
import signal
import ssl
import sys
import traceback
import uuid

from aiohttp import web

from . import faults, sts
from .acs import Acs
from .admin import Admin
from .ecr import Ecr
from .ecs import Ecs
from .errors import ApiError
from .imds import Imds
from .logs import Logs
from .session import refuse
from .shape import parse_json
from .sigv4 import SignatureError, verify
from .store import Caller, Store
from .sts import Sts
from .tcs import Tcs
from .tls import make_certificates

MAX_BODY = 32 * 1024 * 1024
JSON_TYPE = "application/x-amz-json-1.1"


class Server:
    def __init__(self, options):
        self.options = options
        self.store = Store(options)
        self.imds = Imds(self.store)
        self.acs = Acs(self.store)
        self.tcs = Tcs(self.store)
        self.ecs = Ecs(self.store)
        self.ecs.agent.document_signer = self.imds.signer
        self.logs = Logs(self.store)
        self.ecr = Ecr(self.store)
        self.sts = Sts(self.store)
        self.services = {service.TARGET: service for service in (self.ecs, self.logs, self.ecr)}
        self.admin = Admin(self)
        self._runners = []

    # HTTPS

    async def handle(self, request):
        if request.path in ("/acs/ws", "/tcs/ws"):
            return await self._handle_session(request)
        body = await request.read()
        target = request.headers.get("X-Amz-Target")
        if target is None:
            return await self._handle_sts(request, body)
        name, _, operation = target.partition(".")
        service = self.services.get(name)
        if service is None:
            return _json_error("UnknownOperationException", f"unknown target '{target}'", 400)
        fault = self.store.faults.take(service.SERVICE, operation)
        if fault:
            answer = await faults.apply_http(fault, request, _json_error)
            if answer is not None:
                self._note_fault(service.SERVICE, operation, fault)
                return answer
        answer = self._answer_json(request, service, operation, body)
        fault = self.store.faults.take(service.SERVICE, operation, "after")
        if fault:
            self._note_fault(service.SERVICE, operation, fault)
            return await faults.apply_http(fault, request, _json_error)
        return answer

    def _note_fault(self, service, operation, fault):
        self.store.add_call(service, operation, fault.status, f"fault {fault.kind}", None)

    def _answer_json(self, request, service, operation, body):
        key = document = None
        try:
            key = self._verify(request, service.SERVICE, operation, body)
            document = self._parse(request, service.SERVICE, operation, body)
            caller = self._caller(request, key)
            if service is self.logs:
                answer = service.call(operation, document, caller, request.headers)
            else:
                answer = service.call(operation, document, caller)
        except ApiError as error:
            self._add_call(service, operation, error.status, error.code, key, document)
            return _json_error(error.code, error.message, error.status)
        except Exception:
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            self.store.violations.add(service.SERVICE, operation, "stand-in-bug", text)
            return _json_error("ServerException", "the stand-in failed, see its output", 500)
        for problem in service.check_answer(operation, answer):
            if problem.kind != "unknown":  # newer members than this botocore knows
                text = f"our answer: {problem}"
                self.store.violations.add(service.SERVICE, operation, "stand-in-bug", text)
        self._add_call(service, operation, 200, None, key, document)
        text = "" if answer is None else json.dumps(answer)
        return web.Response(text=text, headers=_headers())

    def _caller(self, request, key):
        return Caller(key, request.headers["Host"], request.headers.get("User-Agent", ""))

    def _add_call(self, service, operation, status, error, key, document):
        request = document if service is self.ecs else None
        self.store.add_call(service.SERVICE, operation, status, error, key, request)

    def _verify(self, request, service, operation, body):
        """The key of a signed request; every refusal is a violation."""
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.raw_headers]
        regions = [self.store.region] + (["us-east-1"] if service == "sts" else [])
        try:
            method, target = request.method, request.raw_path
            return verify(self.store.keyring, method, target, headers, body, service, regions)
        except SignatureError as error:
            text = f"{error.code}: {error.message}"
            self.store.violations.add(service, operation, "signature", text)
            raise ApiError(error.code, error.message, 400) from None

    def _parse(self, request, service, operation, body):
        def violation(rule, text):
            self.store.violations.add(service, operation, rule, text)

        if request.method != "POST" or request.raw_path != "/":
            violation("http", f"{request.method} {request.raw_path}, not POST /")
        if request.content_type != JSON_TYPE:
            violation("http", f"Content-Type is '{request.content_type}', not '{JSON_TYPE}'")
        encoding = request.headers.get("Content-Encoding")
        try:
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding is not None:
                violation("http", f"Content-Encoding '{encoding}'")
            document = parse_json(body.decode())
        except (ValueError, OSError, EOFError) as error:
            violation("json", f"{error}: {body[:200]!r}")
            raise ApiError("SerializationException", str(error)) from None
        if not isinstance(document, dict):
            violation("json", f"the body is no object: {body[:200]!r}")
            raise ApiError("SerializationException", "the body is no object")
        return document

    async def _handle_sts(self, request, body):
        operation = self.sts.action(body)
        key = None
        try:
            if not operation:
                raise ApiError("UnknownOperationException", f"{request.method} {request.path}")
            fault = self.store.faults.take("sts", operation)
            if fault:
                answer = await faults.apply_http(fault, request, sts.error_answer)
                if answer is not None:
                    return answer
            key = self._verify(request, "sts", operation, body)
            text = self.sts.call(operation, self._caller(request, key))
        except ApiError as error:
            self.store.add_call("sts", operation, error.status, error.code, key)
            return sts.error_answer(error.code, error.message, error.status)
        self.store.add_call("sts", operation, 200, None, key)
        fault = self.store.faults.take("sts", operation, "after")
        if fault:
            return await faults.apply_http(fault, request, sts.error_answer)
        return web.Response(text=text, content_type="text/xml")

    async def _handle_session(self, request):
        service, endpoint = ("acs", self.acs) if request.path == "/acs/ws" else ("tcs", self.tcs)
        fault = self.store.faults.take(service, "connect")
        if fault:
            self._note_fault(service, "connect", fault)
            answer = await faults.apply_http(fault, request, refuse)
            if answer is not None:
                return answer
        try:
            key = self._verify(request, "ecs", f"{service} connect", b"")
        except ApiError as error:
            self.store.add_call(service, "connect", 403, error.code, None)
            return refuse("AccessDeniedException", f"{error.code}: {error.message}", 403)
        self.store.add_call(service, "connect", 101, None, key)
        return await endpoint.connect(request, key)

    # Life

    async def start(self):
        names = ["localhost", "127.0.0.1", *self.options.name]
        if self.options.listen not in (*names, "0.0.0.0", "::"):
            names.append(self.options.listen)
        ca, certificate, key = make_certificates(self.options.dir, names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        port = await self._listen(self.handle, self.options.listen, self.options.port, context)
        imds = await self._listen(
            self.imds.handle, self.options.imds_listen, self.options.imds_port, None
        )
        admin = await self._listen(self.admin.handle, "127.0.0.1", self.options.admin_port, None)
        self._timers = asyncio.create_task(self.acs.work())
        host = "127.0.0.1" if self.options.listen in ("0.0.0.0", "::") else self.options.listen
        imds_host = self.options.imds_listen
        facts = {
            "endpoint": f"https://{host}:{port}",
            "imds": f"http://{'127.0.0.1' if imds_host == '0.0.0.0' else imds_host}:{imds}",
            "ca": os.path.abspath(ca),
            "admin": f"http://127.0.0.1:{admin}",
            "accessKeyId": self.options.access_key_id,
            "secretAccessKey": self.options.secret_access_key,
            "region": self.options.region,
            "account": self.options.account,
            "pid": os.getpid(),
        }
        _write_atomically(os.path.join(self.options.dir, "standin.json"), facts)
        return facts

    async def _listen(self, handler, host, port, context):
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(
            app, access_log=None, auto_decompress=False, max_line_size=65536, max_field_size=65536
        )
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, ssl_context=context, shutdown_timeout=0.5)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._timers.cancel()
        for instance in self.store.instances.values():
            for session in (instance.acs, instance.tcs):
                if session:
                    session.close(1001, "going away")
        for runner in self._runners:
            await runner.cleanup()


async def serve(options, ready):
    """Run until SIGTERM or SIGINT; ready(facts) is called when everything listens."""
    server = Server(options)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready(await server.start())
    await stop.wait()
    await server.stop()


def _headers():
    return {"Content-Type": JSON_TYPE, "x-amzn-RequestId": str(uuid.uuid4())}


def _json_error(code, message, status=400):
    text = json.dumps({"__type": code, "message": message})
    return web.Response(text=text, status=status, headers=_headers())


def _write_atomically(path, document):
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    os.rename(temporary, path)
