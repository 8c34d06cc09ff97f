"""Strict checks of the contract's payloads: exact keys, types, formats; optional fields absent, never None."""

import re
import time
from datetime import datetime


def text(value):
    return isinstance(value, str) and value != ""


def count(value):
    return type(value) is int and value >= 0


def number(value):
    return type(value) in (int, float)


def record(value):
    return isinstance(value, dict)


def true(value):
    return value is True


def false(value):
    return value is False


def boolean(value):
    return type(value) is bool


def texts(value):
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def now_ms(value):
    return type(value) is int and abs(time.time() * 1000 - value) < 60_000


def iso(value):
    """JavaScript's `toISOString()`, and a time of this test run."""
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
        return False
    return abs(time.time() - datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()) < 60


def latency(value):
    return value is None or (number(value) and value >= 0)


def kind(value):
    return value in ("info", "success", "warning", "error")


# Each: the required fields, then the optional ones. A callback's response is named after its event with ().
SHAPES = {
    "welcome": ({"message": text, "socketId": text, "serverTime": iso}, {}),
    "authenticated": ({"userId": text, "authenticatedAt": iso}, {"email": text}),
    "authError": ({"message": text}, {}),
    "loggedOut": ({"message": text}, {}),
    "roomJoined": ({"room": text, "success": true}, {}),
    "roomLeft": ({"room": text, "success": true}, {}),
    "pong": ({"timestamp": now_ms}, {}),
    "heartbeatAck": ({"timestamp": now_ms, "serverTime": iso, "latency": latency}, {}),
    "notification": (
        {"id": text, "type": kind, "title": text, "message": text, "timestamp": iso},
        {"data": record},
    ),
    "mediaProgress": ({"mediaId": text, "progress": number, "stage": text}, {"message": text}),
    "mediaComplete": ({"mediaId": text, "url": text}, {"thumbnailUrl": text, "metadata": record}),
    "mediaError": ({"mediaId": text, "error": text}, {"code": text}),
    "authenticate()": ({"success": true, "userId": text}, {}),
    "logout()": ({"success": true}, {}),
    "room()": ({"success": true, "room": text}, {}),
    "media()": ({"success": true, "mediaId": text}, {}),
    "getConnectionInfo()": (
        {"socketId": text, "connected": boolean, "rooms": texts, "authenticated": boolean, "connectedAt": iso},
        {},
    ),
    "ping()": ({"timestamp": now_ms}, {}),
    "heartbeat()": ({"timestamp": now_ms, "serverTime": iso, "latency": latency}, {}),
    "refused()": ({"success": false, "error": text}, {}),
    "receipt": ({"id": text, "stored": boolean, "delivered": count}, {}),
}


def check(name, value):
    """Asserts the shape, and returns the value."""
    required, optional = SHAPES[name]
    fields = {**required, **optional}
    assert isinstance(value, dict), f"{name}: {value!r}"
    assert set(required) <= set(value) <= set(fields), f"{name} has the keys {sorted(value)}"
    for key, item in value.items():
        assert fields[key](item), f"{name}.{key} is {item!r}, not {fields[key].__name__}"
    return value
