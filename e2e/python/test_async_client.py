"""`socketio.AsyncClient`, on each way to connect."""

import asyncio
import time

import pytest
import socketio
from harness import DEADLINE, NAMESPACES, AsyncClient, Server, connected, token
from shapes import check

MESSAGES = {
    "/": "Connected to Slop Studios 3",
    "/media": "Connected to media namespace",
    "/notifications": "Connected to notifications namespace",
}


def test_anonymous_on_three_namespaces(server, transports):
    async def scenario():
        async with connected(server, transports=transports) as client:
            ids = set()
            for namespace in NAMESPACES:
                welcome = check("welcome", await client.next("welcome", namespace))
                assert welcome["message"] == MESSAGES[namespace]
                assert welcome["socketId"] == client.sio.get_sid(namespace)
                ids.add(welcome["socketId"])
                info = check("getConnectionInfo()", await client.call("getConnectionInfo", namespace=namespace))
                assert info["socketId"] == welcome["socketId"]
                assert info["connected"] is True and info["authenticated"] is False
                assert info["rooms"] == [welcome["socketId"]]
                assert client.log.names(namespace) == ["welcome"]
            assert len(ids) == 3

    asyncio.run(scenario())


def test_token_in_the_handshake(server, transports, name):
    async def scenario():
        auth = {"token": token(userId=name, email="a@example.org")}
        async with connected(server, transports=transports, auth=auth) as client:
            for namespace in NAMESPACES:
                event = check("authenticated", await client.next("authenticated", namespace))
                assert (event["userId"], event["email"]) == (name, "a@example.org")
                assert client.log.names(namespace) == ["welcome", "authenticated"]
                info = check("getConnectionInfo()", await client.call("getConnectionInfo", namespace=namespace))
                assert info["authenticated"] is True
                assert sorted(info["rooms"]) == sorted([client.sio.get_sid(namespace), f"user:{name}"])

    asyncio.run(scenario())


def test_token_in_the_header(server, transports, name):
    async def scenario():
        headers = {"Authorization": f"Bearer {token(sub=name)}"}
        async with connected(server, transports=transports, headers=headers) as client:
            event = check("authenticated", await client.next("authenticated"))
            assert event["userId"] == name and "email" not in event

    asyncio.run(scenario())


def test_bad_token_leaves_the_connection(server, transports):
    async def scenario():
        async with connected(server, transports=transports, auth={"token": "nonsense"}) as client:
            for namespace in NAMESPACES:
                error = check("authError", await client.next("authError", namespace))
                assert error["message"] == "Token is invalid"
                check("ping()", await client.call("ping", namespace=namespace))

    asyncio.run(scenario())


def test_authenticate_and_logout(server, transports, name):
    async def scenario():
        async with connected(server, transports=transports) as client:
            for namespace in NAMESPACES:
                refused = check("refused()", await client.call("authenticate", {}, namespace))
                assert refused["error"] == "Token is required"
                assert check("authError", await client.next("authError", namespace))["message"] == refused["error"]
                expired = {"token": token(userId=name, exp=int(time.time()) - 3600)}
                refused = check("refused()", await client.call("authenticate", expired, namespace))
                assert refused["error"] == "Token has expired"
                good = check("authenticate()", await client.call("authenticate", {"token": token(id=7)}, namespace))
                assert good["userId"] == "7"
                check("authenticated", await client.next("authenticated", namespace))
                check("logout()", await client.call("logout", namespace=namespace))
                check("loggedOut", await client.next("loggedOut", namespace))

    asyncio.run(scenario())


def test_rooms(server, transports, name):
    room = f"projekt ü/{name}"

    async def scenario():
        async with connected(server, transports=transports) as client:
            for namespace in NAMESPACES:
                assert check("room()", await client.call("joinRoom", room, namespace))["room"] == room
                assert check("roomJoined", await client.next("roomJoined", namespace))["room"] == room
                data = {"text": "é🎬", "items": [1, None, 2.5]}
                receipt = await asyncio.to_thread(
                    server.to_room, room, event="projectUpdate", data=data, namespace=namespace
                )
                assert check("receipt", receipt)["delivered"] == 1
                assert await client.next("projectUpdate", namespace) == data
                check("room()", await client.call("leaveRoom", room, namespace))
                check("roomLeft", await client.next("roomLeft", namespace))
                for bad in ("", 5, [room], {"room": room}, "a" * 129, "user:someone", b"binary", None):
                    check("refused()", await client.call("joinRoom", bad, namespace))

    asyncio.run(scenario())


def test_media(server, transports, name):
    async def scenario():
        async with connected(server, transports=transports) as client:
            subscribe = lambda media_id: client.call("subscribeMedia", media_id, "/media")  # noqa: E731
            publish = lambda *args, **body: asyncio.to_thread(server.media, *args, **body)  # noqa: E731

            assert check("media()", await subscribe(name))["mediaId"] == name
            check("receipt", await publish(name, "progress", progress=10, stage="render"))
            event = check("mediaProgress", await client.next("mediaProgress", "/media"))
            assert event == {"mediaId": name, "progress": 10, "stage": "render"}
            await publish(name, "complete", url="/m.mp4", thumbnailUrl="/m.jpg", metadata={"w": 1920})
            event = check("mediaComplete", await client.next("mediaComplete", "/media"))
            assert event == {"mediaId": name, "url": "/m.mp4", "thumbnailUrl": "/m.jpg", "metadata": {"w": 1920}}
            check("media()", await client.call("unsubscribeMedia", name, "/media"))

            # The snapshot, as the item has a known state.
            check("media()", await subscribe(name))
            assert await client.next("mediaComplete", "/media") == event

            await subscribe(f"failed {name}")
            await publish(f"failed {name}", "error", error="out of memory", code="OOM")
            event = check("mediaError", await client.next("mediaError", "/media"))
            assert event == {"mediaId": f"failed {name}", "error": "out of memory", "code": "OOM"}

            check("refused()", await client.call("subscribeMedia", 5, "/media"))
            assert "only on /media" in check("refused()", await client.call("subscribeMedia", name))["error"]

    asyncio.run(scenario())


def test_notifications(server, transports, name):
    async def scenario():
        async with connected(server, transports=transports, auth={"token": token(userId=name)}) as client:
            await client.next("authenticated", "/notifications")
            body = {"type": "warning", "title": "t", "message": "m"}
            receipt = await asyncio.to_thread(server.notify, name, **body)
            assert check("receipt", receipt)["delivered"] == 1
            event = check("notification", await client.next("notification", "/notifications"))
            assert {key: event[key] for key in body} == body and "data" not in event
            await asyncio.to_thread(server.notify, name, **body, data={"a": [1]}, id="given")
            event = check("notification", await client.next("notification", "/notifications"))
            assert event["data"] == {"a": [1]} and event["id"] == "given"
            for namespace in ("/", "/media"):
                await client.call("ping", namespace=namespace)
                assert "notification" not in client.log.names(namespace)

    asyncio.run(scenario())


def test_ping_and_heartbeat(server, transports):
    async def scenario():
        async with connected(server, transports=transports) as client:
            for namespace in NAMESPACES:
                for data in (None, {}, (None,), ("x", 1)):
                    ack = check("ping()", await client.call("ping", data, namespace))
                    assert check("pong", await client.next("pong", namespace)) == ack
                sent = int(time.time() * 1000) - 1000
                ack = check("heartbeat()", await client.call("heartbeat", {"timestamp": sent}, namespace))
                assert ack["latency"] >= 1000
                assert check("heartbeatAck", await client.next("heartbeatAck", namespace)) == ack
                assert check("heartbeat()", await client.call("heartbeat", None, namespace))["latency"] is None

    asyncio.run(scenario())


def test_unknown_event(server, transports):
    async def scenario():
        async with connected(server, transports=transports) as client:
            for namespace in NAMESPACES:
                answer = check("refused()", await client.call("nonsense", {"a": b"binary"}, namespace))
                assert answer["error"] == "Unknown event: nonsense"

    asyncio.run(scenario())


def test_unknown_namespace(server, transports):
    async def scenario():
        client = AsyncClient()
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(server, transports=transports, namespaces=["/nonsense"])

    asyncio.run(scenario())


def test_auth_required(transports):
    async def scenario(server):
        client = AsyncClient()
        errors = []
        client.sio.on("connect_error", errors.append)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(server, transports=transports, namespaces=["/"])
        assert errors == [{"message": "Unauthorized", "data": {"code": "UNAUTHORIZED"}}]
        async with connected(server, transports=transports, auth={"token": token(userId="u")}) as client:
            check("authenticated", await client.next("authenticated"))

    server = Server(AUTH_REQUIRED="true")
    asyncio.run(scenario(server))
    server.stop()


def test_comes_back_after_a_restart(transports, name):
    async def scenario(server):
        client = AsyncClient(reconnection=True, reconnection_delay=0.2, reconnection_delay_max=0.5)
        gone = asyncio.Event()
        client.sio.on("disconnect", lambda reason: gone.set())
        await client.connect(server, transports=transports, auth={"token": token(userId=name)})
        first = check("welcome", await client.next("welcome"))
        await asyncio.to_thread(server.stop)
        await asyncio.wait_for(gone.wait(), 15)
        server = await asyncio.to_thread(Server, port=server.port)
        second = check("welcome", await client.next("welcome"))
        assert second["socketId"] != first["socketId"]
        await client.next("authenticated")
        check("authenticated", await client.next("authenticated"))
        check("room()", await client.call("joinRoom", name))
        await client.sio.disconnect()
        return server

    asyncio.run(scenario(Server())).stop()


async def first_event(server, transports, auth):
    """The arguments of a client's first event."""
    client = socketio.AsyncClient(reconnection=False)
    got = asyncio.get_running_loop().create_future()

    @client.on("welcome")
    async def welcome(*args):
        got.set_result(args)

    await client.connect(server.url, transports=transports, auth=auth)
    args = await asyncio.wait_for(got, DEADLINE)
    await client.disconnect()
    return args


def test_handlers_get_an_offset_only_if_the_client_asks_for_it(server, transports):
    """Handlers in Python take one argument. That the others do as well, each test shows: see the harness."""

    async def scenario():
        (welcome,) = await first_event(server, transports, {})
        check("welcome", welcome)
        welcome, offset = await first_event(server, transports, {"recovery": True})
        check("welcome", welcome)
        assert isinstance(offset, str)

    asyncio.run(scenario())
