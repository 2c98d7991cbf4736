"""Entries of Envoy's access log settle decisions."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.decide.grpc.messages import LogsMessage
from tests.decide.grpc.conftest import StartGrpc
from tests.support.decide_stage import requests
from tests.support.grpc_gateway import GrpcGateway, entry, metadata_of, question
from tests.support.stage import Stage


async def decided(gateway: GrpcGateway) -> str:
    return metadata_of(await gateway.check(question()))["decision"]


def counted(here: Stage, result: str) -> float | None:
    return here.app.metrics.registry.get_sample_value(
        "sidecar_decide_log_entries_total", {"result": result}
    )


async def test_an_entry_settles_its_decision_once(envoy: StartGrpc) -> None:
    here, gateway = await envoy()
    message = LogsMessage()
    one = entry(message, await decided(gateway))
    one.request.request_body_bytes, one.response.response_body_bytes = 5, 7
    await gateway.log(message, message)
    [event] = await requests(here)
    data = event["data"]
    assert (data["status"], data["reason"], data["latency_ms"]) == (200, "ok", 12)
    assert (data["bytes_in"], data["bytes_out"]) == (5, 7)
    assert counted(here, "settled") == 2  # a repeated report has the same answer


@pytest.mark.parametrize(
    ("flag", "status", "reason"),
    [
        ("upstream_connection_failure", 503, "upstream_refused"),
        ("no_healthy_upstream", 503, "upstream_refused"),
        ("upstream_request_timeout", 504, "upstream_timeout"),
        ("upstream_connection_termination", 503, "upstream_broken"),
        ("upstream_overflow", 503, "overloaded"),
        ("downstream_connection_termination", 0, "client_gone"),
        ("downstream_connection_termination", 200, "client_gone"),
    ],
)
async def test_flags_say_how_a_request_ended(
    envoy: StartGrpc, flag: str, status: int, reason: str
) -> None:
    here, gateway = await envoy()
    await gateway.log_end(await decided(gateway), status, **{flag: True})
    [event] = await requests(here)
    assert (event["data"]["status"], event["data"]["reason"]) == (status or 499, reason)


async def test_a_request_without_a_response_is_of_a_client_that_left(envoy: StartGrpc) -> None:
    here, gateway = await envoy()
    await gateway.log_end(await decided(gateway), 0)
    [event] = await requests(here)
    assert (event["data"]["status"], event["data"]["reason"]) == (499, "client_gone")


@pytest.mark.parametrize(("code", "status"), [("0", 200), ("14", 503), ("8", 429), ("99", 200)])
async def test_the_code_of_grpc_is_the_status(envoy: StartGrpc, code: str, status: int) -> None:
    refunds = {"features: [core]": "features: [core]\n    refund: [upstream_5xx]"}
    here, gateway = await envoy(plans=refunds)
    message = LogsMessage()
    one = entry(message, await decided(gateway))
    one.response.response_trailers.add(key="grpc-status", value=code)
    await gateway.log(message)
    [event] = await requests(here)
    assert event["data"]["status"] == status
    assert event["data"]["billable"] is (status < 500)


LATE = {
    "meters: {requests: {unit: request}}": "meters: {requests: {unit: request}, tokens: {unit: "
    "token, reserve: {json: max_tokens, default: 7}, settle: {header: X-Tokens}}}",
    '{id: rest, match: "/**"}': '{id: rest, match: "/**", cost: {requests: 1, tokens: reserve}}',
}


@pytest.mark.parametrize(
    ("field", "usage", "tokens"),
    [("5", None, 5), (None, 6.0, 6), ("5", 6.0, 6), (None, None, 7), (None, 1.5, 7),
     (None, -1.0, 7), (None, float("nan"), 7), (None, 1e300, 7), ("\x00", None, 7)],
)  # fmt: skip
async def test_costs_come_from_fields_and_from_metadata(
    envoy: StartGrpc, field: str | None, usage: float | None, tokens: int
) -> None:
    here, gateway = await envoy(plans=LATE)
    message = LogsMessage()
    one = entry(message, await decided(gateway))
    if field is not None:
        one.response.response_headers.add(key="x-tokens", value=field)
    if usage is not None:
        namespace = one.common_properties.metadata.filter_metadata.add(key="quota_sidecar.usage")
        namespace.value.fields.add(key="tokens").value.number_value = usage
    await gateway.log(message)
    [event] = await requests(here)
    assert event["data"]["usage"] == {"requests": 1, "tokens": tokens}


async def test_other_entries_settle_nothing(envoy: StartGrpc) -> None:
    here, gateway = await envoy()
    decision = await decided(gateway)
    message = LogsMessage()
    entry(message, decision).common_properties.intermediate_log_entry = True
    entry(message, "")
    entry(message, "not-an-id")
    entry(message, "01a225cb-c429-739e-8830-0ca8e1a0255d.0")
    entry(message, decision.rpartition(".")[0] + ".7")  # of another worker
    message.http_logs.log_entry.add()  # without metadata: not asked, or refused
    await gateway.log(message)
    assert await requests(here) == []
    assert [counted(here, one) for one in ("settled", "unknown", "invalid")] == [0, 2, 1]


async def test_a_message_that_is_not_a_log_ends_the_stream(envoy: StartGrpc) -> None:
    _, gateway = await envoy()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.log(b"\xff\xff\xff")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_decision_that_is_not_reported_is_settled_in_time(envoy: StartGrpc) -> None:
    """Also without --decide, whose listener has a timer of its own."""
    here, gateway = await envoy(decide_settle_timeout_s="0.1")
    await decided(gateway)
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while not found:
            await asyncio.sleep(0.02)
            found = await requests(here)
    assert found[0]["data"]["reason"] == "unsettled"
