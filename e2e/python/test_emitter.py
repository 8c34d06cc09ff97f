"""python-socketio's `RedisManager`: other programs publish with it."""

import asyncio
import contextlib
import pickle
import subprocess
import tempfile
import time
import urllib.request

import pytest
import redis
import socketio
from harness import DEADLINE, SECRET, Server, SyncClient, token


@contextlib.contextmanager
def redis_server():
    """The socket of a Redis of one's own."""
    with tempfile.TemporaryDirectory(prefix="slop-studios-redis-") as folder:
        socket = f"{folder}/socket"
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            until(lambda: is_there(socket))
            yield socket
        finally:
            process.terminate()
            process.wait(DEADLINE)


def is_there(socket):
    try:
        with redis.Redis(unix_socket_path=socket) as client:
            return client.ping()
    except redis.ConnectionError:
        return False


def until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def metric(server, name):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=DEADLINE) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


def refusals(server, reason):
    return metric(server, f'slop_emitter_refusals_total{{emitter="python",reason="{reason}"}}')


@pytest.fixture(scope="module")
def emitters():
    """The socket of a Redis, and a node that reads the emitters."""
    with redis_server() as socket:
        server = Server(REDIS_URL=f"redis+unix://{socket}", CLUSTER_SECRET=SECRET, EMITTERS="python")
        until(lambda: metric(server, "slop_emitter_reader") == 1)
        yield socket, server
        server.stop()


@pytest.fixture
def client(emitters, name):
    client = SyncClient()
    client.sio.connect(
        emitters[1].url,
        transports=["websocket"],
        namespaces=["/", "/media", "/notifications"],
        auth={"token": token(userId=name)},
        wait_timeout=DEADLINE,
    )
    yield client
    client.sio.disconnect()


def test_the_manager_publishes(emitters, client, name):
    manager = socketio.RedisManager(f"unix://{emitters[0]}", write_only=True)
    assert client.call("joinRoom", name)["success"]
    for data in [{"a": [1, None, "é"]}, 0.5, "text", None]:
        manager.emit("projectUpdate", data, room=name)
        assert client.next("projectUpdate") == data

    assert client.call("subscribeMedia", name, "/media")["success"]
    manager.emit("mediaProgress", {"mediaId": name, "progress": 1, "stage": "s"}, namespace="/media")
    assert client.next("mediaProgress", "/media") == {"mediaId": name, "progress": 1, "stage": "s"}
    notification = {"type": "info", "title": "t", "message": "m"}
    manager.emit("notification", notification, namespace="/notifications", room=f"user:{name}")
    assert notification.items() <= client.next("notification", "/notifications").items()


def test_the_async_manager_publishes(emitters, client, name):
    assert client.call("joinRoom", name)["success"]

    async def emit():
        manager = socketio.AsyncRedisManager(f"unix://{emitters[0]}", write_only=True)
        for number in range(100):
            await manager.emit("projectUpdate", number, room=[name])

    asyncio.run(emit())
    assert [client.next("projectUpdate") for _ in range(100)] == list(range(100))


@pytest.mark.parametrize(
    "reason, options",
    [
        ("no room", {}),
        ("several rooms", {"room": ["a", "b"]}),
        ("except", {"room": "a", "skip_sid": "some-sid"}),
        ("namespace", {"room": "a", "namespace": "/chat"}),
        ("binary data", {"room": "a", "data": b"bytes"}),
        ("invalid", {"room": "a", "event": "authenticated"}),
    ],
)
def test_what_may_not_be_sent_is_counted(emitters, reason, options):
    manager = socketio.RedisManager(f"unix://{emitters[0]}", write_only=True)
    before = refusals(emitters[1], reason)
    manager.emit(options.pop("event", "projectUpdate"), options.pop("data", 1), **options)
    until(lambda: refusals(emitters[1], reason) == before + 1)


def test_requests_are_counted(emitters):
    manager = socketio.RedisManager(f"unix://{emitters[0]}", write_only=True)
    before = refusals(emitters[1], "request")
    with contextlib.suppress(AttributeError):  # a manager without a server fails after it has published
        manager.close_room("a")
    with redis.Redis(unix_socket_path=emitters[0]) as publisher:
        publisher.publish("socketio", '{"method": "disconnect", "sid": "s", "namespace": "/", "host_id": "h"}')
    until(lambda: refusals(emitters[1], "request") == before + 2)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_loaded(emitters, client, name, protocol):
    assert client.call("joinRoom", name)["success"]
    server = emitters[1]
    count = lambda: refusals(server, "pickle") + refusals(server, "malformed")  # noqa: E731
    before = count()
    message = {"method": "emit", "event": "projectUpdate", "data": [1], "namespace": "/", "room": name}
    with redis.Redis(unix_socket_path=emitters[0]) as publisher:
        publisher.publish("socketio", pickle.dumps(message, protocol))
    until(lambda: count() == before + 1)
    client.call("ping")
    assert "projectUpdate" not in client.log.names("/")
