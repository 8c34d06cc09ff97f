"""Publishes that are refused before their body has come: the status arrives, and no broken pipe."""

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
import requests
from harness import API_KEY, DEADLINE

REPEATS = 20
REFUSALS = {
    "a wrong key": ("wrong", 900_000, "application/json", 401),
    "more than may come": (API_KEY, 1_100_000, "application/json", 413),
    "no JSON": (API_KEY, 900_000, "text/plain", 415),
}


def by_urllib(url, headers, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=DEADLINE) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            error.read()
            return error.code


def by_http_client(url, headers, body):
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("POST", address.path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status


def by_requests(url, headers, body):
    return requests.post(url, body, headers=headers, timeout=DEADLINE).status_code


@pytest.mark.parametrize("post", [by_urllib, by_http_client, by_requests])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_the_status_arrives(server, post, refusal):
    key, size, content_type, status = refusal
    body = json.dumps({"progress": 1, "stage": "x" * size}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": content_type}
    answers = [post(f"{server.url}/v1/media/m/progress", headers, body) for _ in range(REPEATS)]
    assert answers == [status] * REPEATS
