"""One WebSocket session of an agent: the handshake's rules, faults, and an ordered writer."""

import asyncio
import json
import sys
import time
import traceback
from urllib.parse import unquote

from aiohttp import WSMsgType, web

from .faults import reset

MAX_FRAME = 8 * 1024 * 1024
LINGER = 0.5


def check_query(target, required, optional):
    """(values by name, list of texts about what is wrong) of a request target's query."""
    wrong = []
    query = target.partition("?")[2]
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    names = [unquote(name) for name, _, _ in pairs]
    if "+" in query:
        wrong.append("a space in the query is %20, not '+'")
    if names != sorted(names):
        wrong.append(f"query members are not in alphabetical order: {', '.join(names)}")
    for name in sorted({name for name in names if names.count(name) > 1}):
        wrong.append(f"query member {name} is given twice")
    for name in sorted(set(names) - set(required) - set(optional)):
        wrong.append(f"unknown query member {name}")
    values = {unquote(name): unquote(value) for name, _, value in pairs}
    for name in required:
        if not values.get(name):
            wrong.append(f"query member {name} is missing or empty")
    return values, wrong


def refuse(code, text, status=400):
    """A handshake refused as ACS and TCS do."""
    body = {"type": code, "message": {"message": text}}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


class Session:
    """Sends what is posted in that order and hands each received text to on_text()."""

    def __init__(self, service, store, instance):
        self.service = service
        self.store = store
        self.instance = instance
        self.ws = None
        self.transport = None
        self.received = 0
        self.pongs = 0
        self._queue = asyncio.Queue()
        self._tasks = []
        self._closing = None

    def violation(self, operation, rule, text):
        self.store.violations.add(
            self.service, operation, rule, text, containerInstance=self.instance.arn
        )

    async def run(self, request, background=()):
        """Upgrade the request, serve until the connection ends, and return the response."""
        self._check_upgrade(request)
        self.ws = web.WebSocketResponse(
            compress=False, autoping=False, max_msg_size=MAX_FRAME, timeout=2.0
        )
        await self.ws.prepare(request)
        self.transport = request.transport
        self._tasks = [asyncio.create_task(self._write())]
        self._tasks += [asyncio.create_task(job) for job in background]
        self.opened()
        try:
            await self._read()
        finally:
            for task in self._tasks:
                task.cancel()
            self.closed()
        if self._closing:
            await self._closing
            await self._linger()
        return self.ws

    async def _linger(self):
        """Let the agent answer our Close frame: returning ends the TCP connection at once."""
        deadline = time.monotonic() + LINGER
        while not self.transport.is_closing() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _check_upgrade(self, request):
        for name in ("Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"):
            if name in request.headers:
                self.violation("connect", "handshake", f"{name}: {request.headers[name]}")

    def opened(self):
        """Called once the handshake is answered."""

    def closed(self):
        """Called when the connection has ended, however it did."""

    def on_text(self, text):
        raise NotImplementedError

    def post(self, kind, message, sent=None):
        """Queue one message; sent() is called when it has been written."""
        text = json.dumps({"type": kind, "message": message})
        self._queue.put_nowait((kind, text, sent))

    def post_raw(self, text):
        self._queue.put_nowait((None, text, None))

    def close(self, code, reason=""):
        if self._closing is None:
            closing = self.ws.close(code=code, message=reason.encode())
            self._closing = asyncio.create_task(closing)

    def ping(self):
        self._tasks.append(asyncio.create_task(self.ws.ping(b"standin")))

    def reset(self):
        reset(self.transport)

    async def _write(self):
        while True:
            kind, text, sent = await self._queue.get()
            fault = self.store.faults.take(self.service, kind) if kind else None
            if fault:
                text = await self._apply(fault, text)
            if text is None or self.ws.closed:
                continue
            try:
                await self.ws.send_str(text)
            except (ConnectionError, RuntimeError):
                return
            if sent:
                sent()

    async def _apply(self, fault, text):
        """The text to go on with after a fault, or None."""
        if fault.kind == "delay":
            await asyncio.sleep(fault.delay)
            return text
        if fault.kind == "malformed":
            return fault.body
        if fault.kind == "close":
            self.close(fault.code, fault.message)
        if fault.kind == "reset":
            self.reset()
        return None

    async def _read(self):
        async for message in self.ws:
            if message.type == WSMsgType.TEXT:
                self.received += 1
                await self._receive(message.data)
            elif message.type == WSMsgType.PING:
                self.violation("ping", "frame", "the agent sends no pings")
                await self.ws.pong(message.data)
            elif message.type == WSMsgType.PONG:
                self.pongs += 1
            elif message.type == WSMsgType.BINARY:
                self.violation("binary", "frame", f"binary frame of {len(message.data)} bytes")
        if self.ws.close_code in (1002, 1009):
            self.violation("close", "frame", f"the connection broke with {self.ws.close_code}")

    async def _receive(self, text):
        kind = self.kind_of(text)
        fault = self.store.faults.take(self.service, kind) if kind else None
        if fault and await self._apply(fault, text) is None:
            return
        try:
            self.on_text(text)
        except Exception:
            report = traceback.format_exc()
            print(report, file=sys.stderr, flush=True)
            self.violation("frame", "stand-in-bug", report)

    def kind_of(self, text):
        """The type of a received message, found without checking it, or None."""
        try:
            return json.loads(text)["type"]
        except (ValueError, KeyError, TypeError):
            return None
