"""Starts the real `slop-studios serve`, speaks to its HTTP API, and records what stock clients receive."""

import asyncio
import atexit
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import queue
import re
import subprocess
import tempfile
import threading
import time
import urllib.parse

import socketio

SECRET = "e2e-secret-0123456789abcdef0123456789abcdef0123456789abcdef"
API_KEY = "e2e-publisher-key-0123456789abcdef"
NAMESPACES = ["/", "/media", "/notifications"]
DEADLINE = 15.0
GRACE = 3.0

BINARY = os.environ.get(
    "SLOP_STUDIOS_BIN", str(pathlib.Path(__file__).parents[2] / "target" / "debug" / "slop-studios")
)


def token(secret=SECRET, **claims):
    """A JWT (HS256), good for an hour unless the claims say otherwise."""

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    claims = {"iat": now, "exp": now + 3600, **claims}
    body = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    return (body + b"." + encode(hmac.new(secret.encode(), body, hashlib.sha256).digest())).decode()


class Server:
    """One server process. `stop` asserts that it ends with exit code 0, and without a panic."""

    def __init__(self, port=0, **env):
        self._data = tempfile.TemporaryDirectory(prefix="slop-studios-e2e-")
        self._process = subprocess.Popen(
            [BINARY, "serve"],
            env={
                "PATH": os.environ["PATH"],
                "RUST_BACKTRACE": "1",
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "JWT_SECRET": SECRET,
                "API_KEYS": API_KEY,
                "DATA_DIR": self._data.name,
                "LOG_LEVEL": "warn",
                "SHUTDOWN_GRACE_MS": str(int(GRACE * 1000)),
                # On polling, python-engineio's disconnect() waits for the pending poll, and sends no CLOSE if it was
                # called between the poll that brought an ack and the answer to the POST that asked for it. Then only
                # the next heartbeat ends it.
                "PING_INTERVAL_MS": "2000",
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._process.kill)  # where a test failed before it stopped its server
        self._lines = {"stdout": queue.Queue(), "stderr": queue.Queue()}
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._lines]
        for reader in self._readers:
            reader.start()
        try:
            line = self._lines["stdout"].get(timeout=20)
            match = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line or "")
            assert match, f"unexpected start-up line {line!r}:\n{self._log()}"
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.port = int(match[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self, name):
        for line in getattr(self._process, name):
            self._lines[name].put(line)
        self._lines[name].put(None)

    def _log(self):
        return "".join(line for line in self._lines["stderr"].queue if line)

    def publish(self, path, body):
        """A publish that must be accepted; returns the receipt."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            headers = {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        assert 200 <= response.status < 300, f"POST {path}: {response.status} {text}"
        return json.loads(text)

    def media(self, media_id, kind, **body):
        return self.publish(f"/v1/media/{urllib.parse.quote(media_id, safe='')}/{kind}", body)

    def notify(self, user, **body):
        return self.publish(f"/v1/users/{urllib.parse.quote(user, safe='')}/notifications", body)

    def to_room(self, room, **body):
        return self.publish(f"/v1/rooms/{urllib.parse.quote(room, safe='')}/events", body)

    def stop(self):
        """SIGTERM, with whatever is connected."""
        self._process.terminate()
        try:
            code = self._process.wait(GRACE + 2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            for reader in self._readers:
                reader.join(DEADLINE)
            self._data.cleanup()
        atexit.unregister(self._process.kill)
        assert code == 0, self._log()
        assert "panicked at" not in self._log(), self._log()


class Log:
    """What one client received, in order: (namespace, event, payload)."""

    def __init__(self):
        self.entries = []
        self._taken = {}

    def add(self, namespace, event, args):
        # The offset of Socket.IO's connection state recovery is for clients that can come back with it.
        assert len(args) == 1, (event, args)
        self.entries.append((namespace, event, args[0]))

    def take(self, namespace, event):
        """The next such payload that was not taken yet, in a tuple; or None."""
        start = self._taken.get((namespace, event), 0)
        for index in range(start, len(self.entries)):
            if self.entries[index][:2] == (namespace, event):
                self._taken[namespace, event] = index + 1
                return (self.entries[index][2],)
        return None

    def names(self, namespace):
        return [event for where, event, _ in self.entries if where == namespace]


class AsyncClient:
    """A stock `socketio.AsyncClient` with a log."""

    def __init__(self, **options):
        self.sio = socketio.AsyncClient(**{"reconnection": False, **options})
        self.log = Log()
        self._news = asyncio.Condition()
        for namespace in NAMESPACES:
            self.sio.on("*", self._recorder(namespace), namespace=namespace)

    def _recorder(self, namespace):
        async def record(event, *args):
            async with self._news:
                self.log.add(namespace, event, args)
                self._news.notify_all()

        return record

    async def connect(self, server, *, transports, namespaces=NAMESPACES, **options):
        await self.sio.connect(
            server.url, transports=transports, namespaces=namespaces, wait_timeout=DEADLINE, **options
        )

    async def next(self, event, namespace="/"):
        """The payload of the next event of that name."""

        async def found():
            async with self._news:
                while (payload := self.log.take(namespace, event)) is None:
                    await self._news.wait()
                return payload[0]

        try:
            return await asyncio.wait_for(found(), DEADLINE)
        except asyncio.TimeoutError:
            raise AssertionError(f"no {event} on {namespace}: {self.log.names(namespace)[-20:]}") from None

    async def call(self, event, data=None, namespace="/"):
        return await self.sio.call(event, data, namespace=namespace, timeout=DEADLINE)


@contextlib.asynccontextmanager
async def connected(server, *, transports, **options):
    """A client that stands on all three namespaces (or those of `namespaces`)."""
    client = AsyncClient()
    await client.connect(server, transports=transports, **options)
    try:
        yield client
    finally:
        await client.sio.disconnect()


class SyncClient:
    """A stock, threaded `socketio.Client` with a log."""

    def __init__(self, **options):
        self.sio = socketio.Client(**{"reconnection": False, **options})
        self.log = Log()
        self._news = threading.Condition()
        for namespace in NAMESPACES:
            self.sio.on("*", self._recorder(namespace), namespace=namespace)

    def _recorder(self, namespace):
        def record(event, *args):
            with self._news:
                self.log.add(namespace, event, args)
                self._news.notify_all()

        return record

    def next(self, event, namespace="/"):
        found = []

        def ready():
            if not found and (payload := self.log.take(namespace, event)) is not None:
                found.append(payload[0])
            return bool(found)

        with self._news:
            assert self._news.wait_for(ready, DEADLINE), f"no {event} on {namespace}: {self.log.names(namespace)[-20:]}"
        return found[0]

    def call(self, event, data=None, namespace="/"):
        return self.sio.call(event, data, namespace=namespace, timeout=DEADLINE)
