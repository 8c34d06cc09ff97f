"""The HTTP API does what `/openapi.json` says it does: schemathesis makes requests of the description, right ones and wrong ones."""

import pathlib
import subprocess
import sys

import pytest
from harness import API_KEY, Server

# Not `negative_data_rejection` and `positive_data_acceptance`: a batch with a wrong item is answered 207, which says so of the
# item, and a reused idempotency key is refused whatever the body is.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]
EXAMPLES = 20


@pytest.fixture(scope="module")
def own_server():
    server = Server()
    yield server
    server.stop()


@pytest.mark.parametrize("key", [API_KEY, "e2e-nobodys-key-0123456789abcdef", None], ids=["a valid key", "a wrong key", "no key"])
def test_no_answer_is_a_failure_or_undocumented(own_server, key, tmp_path):
    command = [str(pathlib.Path(sys.executable).with_name("schemathesis")), "run", f"{own_server.url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--seed", "1", "--continue-on-failure"]
    command += ["--header", f"Authorization: Bearer {key}"] if key else []
    run = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    # That they were all tried.
    assert "Selected: 15/15" in run.stdout and "Tested: 15" in run.stdout
