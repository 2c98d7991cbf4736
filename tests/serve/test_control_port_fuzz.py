"""The control port answers as its OpenAPI document says, whatever a client sends.

`make fuzz` sends many more requests.
"""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from prometheus_client import CollectorRegistry, Counter

from sidecar.serve.control_access import ControlAccess, TokenFile
from sidecar.serve.control_port import PATHS, ControlPort, openapi
from sidecar.serve.readiness import Readiness

DOCUMENT = json.loads(openapi())
TOKEN = "a-token-of-the-fuzz-test"
STATUS = {
    "file": "plans.yaml", "version": f"sha256:{'a' * 64}",
    "live_since": "2026-11-23T08:30:00+00:00", "failed_since": None, "problems": [],
    "warnings": 0, "reloads": 1, "failures": 0,
}  # fmt: skip
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))  # requests per path and method
schema = schemathesis.openapi.from_dict(DOCUMENT)


def test_the_document_is_valid_and_has_every_path() -> None:
    schema.validate()  # raises an error
    assert list(DOCUMENT["paths"]) == PATHS.replace(" and ", ", ").split(", ")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A control port with a token file, in a thread of its own."""
    file = tmp_path_factory.mktemp("control") / "token"
    file.write_text(TOKEN)
    registry = CollectorRegistry()
    Counter("sidecar_attempts", "Attempts.", registry=registry).inc()
    loop = asyncio.new_event_loop()
    server = ControlPort(
        ("127.0.0.1", 0),
        registry=registry,
        ready=lambda: Readiness([], ["redis: unreachable"]),
        config_status=lambda: STATUS,
        reload=lambda: None,
        access=ControlAccess(TokenFile(file)),
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield f"http://127.0.0.1:{server.port}"
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_security_the_control_port_answers_any_request_as_documented(
    case: schemathesis.Case, url: str
) -> None:
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_security_without_the_token_any_request_is_answered_as_documented(
    case: schemathesis.Case, url: str
) -> None:
    response = case.call(base_url=url)
    case.validate_response(response)
    assert response.status_code >= 400 or case.path not in ("/config", "/reload")


def test_the_document_is_in_the_source_tree() -> None:
    page = Path(__file__).parents[2] / "sidecar" / "serve" / "openapi.json"
    assert page.read_bytes() == openapi()
