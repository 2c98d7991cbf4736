"""plugins/openapi.yaml describes the decide port: schemathesis sends what it allows and forbids."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from hypothesis import HealthCheck, Phase, settings

from sidecar.decide.documents import _DECIDE, _SETTLE
from tests.support.proxy_stage import EVERYTHING, SidecarThread, running
from tests.support.vectors import PLUGINS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

TOKEN = "0123456789abcdef"
EXAMPLES = 15  # per operation
FILE = PLUGINS / "openapi.yaml"
SCHEMA = schemathesis.openapi.from_path(str(FILE))


@pytest.fixture(scope="module")
def address(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a decide port."""
    directory: Path = tmp_path_factory.mktemp("sidecar")
    tokens = directory / "tokens"
    tokens.write_text(TOKEN)
    flags = {"decide": "127.0.0.1:0", "decide_token_file": str(tokens)}
    with running(lambda: SidecarThread(directory, _valkey, EVERYTHING, **flags)) as sidecar:
        assert sidecar.app.decide is not None
        yield f"http://127.0.0.1:{sidecar.app.decide.port.port}"


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        yield one


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_every_answer_is_as_the_document_says(
    case: Any, address: str, session: requests.Session
) -> None:
    headers = {"X-Decide-Token": TOKEN}
    response = case.call(base_url=address, headers=headers, session=session)
    checks = schemathesis.checks
    case.validate_response(
        response,
        checks=[
            checks.not_a_server_error,
            *(checks.CHECKS.get_by_names([
                "status_code_conformance", "content_type_conformance",
                "response_schema_conformance",
            ])),
        ],
    )  # fmt: skip


def test_a_decision_and_its_settlement_are_as_the_document_says(
    address: str, session: requests.Session
) -> None:
    """What random documents do not reach: an allowed request, and its settlement."""
    headers = {"X-Decide-Token": TOKEN}
    decide, settle = SCHEMA["/v1/decide"]["POST"], SCHEMA["/v1/settle"]["POST"]
    question = {"method": "GET", "path": "/x", "headers": {"X-Api-Key": "key-A"}}
    decision = decide.Case(body=question, media_type="application/json").call_and_validate(
        base_url=address, headers=headers, session=session
    )
    assert decision.json()["decision"] == "allow"
    report = {"id": decision.json()["id"], "status": 200}
    settled = settle.Case(body=report, media_type="application/json").call_and_validate(
        base_url=address, headers=headers, session=session
    )
    assert settled.json()["billable"] is True


def test_the_document_has_the_members_that_the_code_knows() -> None:
    schemas = yaml.safe_load(FILE.read_text())["components"]["schemas"]
    assert schemas["Question"]["properties"].keys() == _DECIDE.keys()
    assert schemas["Report"]["properties"].keys() == _SETTLE.keys()
    contract = (PLUGINS / "CONTRACT.md").read_text()
    for member in (*_DECIDE, *_SETTLE):
        assert f"`{member}`" in contract, member
