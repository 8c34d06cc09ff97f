"""`socketio.Client`, the threaded one."""

import pytest
from harness import DEADLINE, NAMESPACES, SyncClient, token
from shapes import check


@pytest.fixture
def client(server, transports, name):
    client = SyncClient()
    client.sio.connect(
        server.url,
        transports=transports,
        namespaces=NAMESPACES,
        auth={"token": token(userId=name)},
        wait_timeout=DEADLINE,
    )
    yield client
    client.sio.disconnect()


def test_a_session(server, client, name):
    for namespace in NAMESPACES:
        check("welcome", client.next("welcome", namespace))
        assert check("authenticated", client.next("authenticated", namespace))["userId"] == name

    check("room()", client.call("joinRoom", name))
    check("roomJoined", client.next("roomJoined"))
    server.to_room(name, event="projectUpdate", data=[1, "two"])
    assert client.next("projectUpdate") == [1, "two"]
    check("refused()", client.call("joinRoom", "user:someone-else"))

    check("media()", client.call("subscribeMedia", name, "/media"))
    server.media(name, "progress", progress=12.5, stage="s", message="m")
    check("mediaProgress", client.next("mediaProgress", "/media"))
    server.media(name, "error", error="e")
    check("mediaError", client.next("mediaError", "/media"))

    server.notify(name, type="info", title="t", message="m", data={})
    check("notification", client.next("notification", "/notifications"))

    assert check("ping()", client.call("ping")) == check("pong", client.next("pong"))
    ack = check("heartbeat()", client.call("heartbeat", {"timestamp": 1}))
    assert ack == check("heartbeatAck", client.next("heartbeatAck"))
    info = check("getConnectionInfo()", client.call("getConnectionInfo"))
    assert sorted(info["rooms"]) == sorted([client.sio.get_sid("/"), f"user:{name}", name])
    check("logout()", client.call("logout"))
    check("loggedOut", client.next("loggedOut"))


def test_a_burst_arrives_in_order(server, client, name):
    # python-engineio drops the connection when a poll brings more than 16 packets.
    client.call("joinRoom", name)
    for number in range(200):
        server.to_room(name, event="projectUpdate", data=number)
    assert [client.next("projectUpdate") for _ in range(200)] == list(range(200))
