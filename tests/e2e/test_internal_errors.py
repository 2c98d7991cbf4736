"""Internal errors: the client gets a 500, the log has the cause, and other requests continue."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from sidecar.commands.serve import is_compiled
from sidecar.core.identity import key_digest
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from tests.support.processes import SlowApi
from tests.support.stage import Stage, StartStage, problem, status

replaced = pytest.mark.skipif(is_compiled(), reason="what is compiled cannot be replaced")
LOGIN = b"POST /login HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 0\r\n\r\n"


class Unforeseen(Exception):
    """An error that a test injects into the sidecar."""


def fails(*_: object) -> Any:
    raise Unforeseen("secret-detail")


def forwarding_fails(here: Stage, broken: Callable[..., Any] = fails) -> None:
    """Make the head for the upstream fail from now on."""
    handler = here.app.data_port._handler
    handler.options = dataclasses.replace(handler.options, trusts=broken)


def counted(registry: CollectorRegistry, outcome: str) -> float:
    """The number of requests with this outcome, on all routes."""
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "sidecar_requests_total" and sample.labels["outcome"] == outcome
    )


def all_counted(registry: CollectorRegistry) -> float:
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "sidecar_requests_total"
    )


async def test_a_failure_before_admission_is_a_500_logged_and_counted(
    stage: StartStage, capsys: pytest.CaptureFixture[str]
) -> None:
    here = await stage(on_decision=fails, access_log=True)
    capsys.readouterr()
    answer = await here.call("GET", "/items")
    document = problem(answer)
    assert (status(answer), document["title"]) == (500, "Internal error")
    assert b"Connection: close" in answer
    assert b"secret-detail" not in answer and b"Unforeseen" not in answer
    logged = capsys.readouterr().out
    assert "request_failed" in logged and "Unforeseen: secret-detail" in logged
    assert "reason=internal-error" in logged and "status=500" in logged  # the access line
    assert logged.count(document["request_id"]) == 2
    registry = here.app.metrics.registry
    assert counted(registry, "internal-error") == 1


async def test_I4_a_failure_during_forwarding_is_settled_and_recorded_once(
    stage: StartStage, capsys: pytest.CaptureFixture[str]
) -> None:
    here = await stage(access_log=True)
    forwarding_fails(here)
    capsys.readouterr()
    answer = await here.call("GET", "/items", Accept="text/plain")
    assert status(answer) == 500
    assert b"Content-Type: text/plain" in answer
    [event] = await here.events()
    assert event["id"].encode() in answer
    assert (event["data"]["status"], event["data"]["reason"]) == (500, "cancelled")
    registry = here.app.metrics.registry
    assert counted(registry, "internal-error") == all_counted(registry) == 1
    logged = capsys.readouterr().out
    assert logged.count(event["id"]) == 2  # why, and the access line
    assert "Traceback" in logged and "reason=internal-error" in logged


async def test_a_failure_ends_only_its_own_connection(stage: StartStage) -> None:
    here = await stage()
    failing = [True]
    forwarding_fails(here, lambda _peer: fails() if failing[0] else False)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(LOGIN + LOGIN)
    async with asyncio.timeout(10):
        all_of_it = await reader.read()  # to the end: the second request gets no response
    assert all_of_it.count(b"HTTP/1.1 ") == 1 and status(all_of_it) == 500
    writer.close()
    failing[0] = False
    assert status(await here.raw(LOGIN)) == 200
    assert here.app.data_port.connections <= 1


async def test_a_failure_during_a_response_resets_the_connection(
    stage: StartStage, slow_api: SlowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    here = await stage(upstream=f"http://127.0.0.1:{slow_api.port}")
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(LOGIN)
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"first-")
        [connection] = here.app.data_port._clients.limits.all()
        connection.flow._done.set_exception(Unforeseen())  # type: ignore[union-attr]
        with pytest.raises(ConnectionResetError):  # not a close, which ends a response in HTTP/1.0
            await reader.read()
    writer.close()
    assert status(answer) == 200
    [event] = await here.events()
    assert (event["data"]["status"], event["data"]["bytes_out"]) == (200, len("first-"))
    assert counted(here.app.metrics.registry, "internal-error") == 1
    assert "request_failed" in capsys.readouterr().out


@replaced
async def test_an_internal_error_in_the_parser_is_a_500(
    stage: StartStage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await stage()
    monkeypatch.setattr("sidecar.proxy.downstream.parser.check_head", fails)
    answer = await here.call("GET", "/items")
    assert status(answer) == 500
    assert problem(answer)["how_to_fix"]
    assert b"secret-detail" not in answer
    assert counted(here.app.metrics.registry, "internal-error") == 1
    logged = capsys.readouterr().out
    assert "request_parse_failed" in logged and "secret-detail" in logged


@replaced
async def test_a_failure_after_a_complete_response_leaves_the_response_intact(
    stage: StartStage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await stage()
    monkeypatch.setattr(here.app.data_port._pool, "release", fails)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(LOGIN)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\nok")
    assert answer.count(b"HTTP/1.1 ") == 1
    [event] = await here.events()
    assert (event["data"]["status"], event["data"]["reason"]) == (200, "ok")
    assert "request_failed" in capsys.readouterr().out


async def test_a_background_task_that_dies_is_logged(
    stage: StartStage, capsys: pytest.CaptureFixture[str]
) -> None:
    here = await stage()

    async def dies() -> None:
        raise Unforeseen

    here.app._spawn(dies())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    logged = capsys.readouterr().out
    assert "background_task_died" in logged and "dies" in logged


@pytest.mark.parametrize(
    "wrong",
    [{"timezone": "Mars/Base"}, {"timezone": "../etc"}, {"anchor": "2026-02-31"}],
    ids=["zone", "path", "anchor"],
)
async def test_an_account_with_an_invalid_record_gets_503_and_is_logged_once(
    stage: StartStage, valkey_url: str, wrong: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    here = await stage()
    with Admin(valkey_url, "qs") as admin:
        _, secret = admin.create_key("globex", random_bytes=bytes, key_id="k1")
        admin.set_account("globex", plan="free", timezone="UTC", anchor=None)
    client = redis.Redis.from_url(valkey_url)
    client.hset(keys.account("qs", "globex"), mapping=wrong)
    client.close()
    here.app.directory.forget()
    capsys.readouterr()
    for _ in range(3):
        answer = await here.call("GET", "/items", key=secret)
        assert status(answer) == 503
        assert problem(answer)["how_to_fix"]
    logged = capsys.readouterr().out
    assert logged.count("account_record_invalid") == 1
    assert "globex" in logged and next(iter(wrong.values())) in logged
    assert secret not in logged and key_digest(secret.encode()).hex() not in logged
    assert status(await here.call("GET", "/items")) == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "k1\r\nX-Plan: scale"}, {"account": "acme\r\nX-Account-Id: globex"}, {"id": ""},
        {"account": ""}, {"team": "a\nb"}, {"id": "k" * 129}, {"id": "k\u202e1"}, {"id": b"\xff"},
    ],
)  # fmt: skip
async def test_an_api_key_with_an_invalid_record_adds_no_field_to_a_request(
    stage: StartStage,
    valkey_url: str,
    wrong: dict[str, str | bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other programs write records, too: an ID may come from a customer's form."""
    here = await stage()
    name = keys.credential("qs", key_digest(b"secret").hex())
    client = redis.Redis.from_url(valkey_url)
    record: dict[str, str | bytes] = {"id": "k1", "account": "acme"} | wrong
    client.hset(name, mapping=record)  # type: ignore[arg-type]
    client.hset(keys.account("qs", str(record["account"])), mapping={"plan": "free"})
    for _ in range(2):
        assert status(await here.call("GET", "/items", key="secret")) == 503
    assert not here.upstream.received
    assert capsys.readouterr().out.count("account_record_invalid") == 1
    client.delete(name)
    client.set(name, "not a hash")
    here.app.directory.forget()
    assert status(await here.call("GET", "/items", key="secret")) == 503
    assert "the record is not a hash" in capsys.readouterr().out
    client.close()
