import pytest
from harness import Server

TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(params=TRANSPORTS.values(), ids=TRANSPORTS.keys())
def transports(request):
    return request.param


@pytest.fixture
def name(request):
    """A name that no other test uses, for users, rooms and media items."""
    return request.node.name
