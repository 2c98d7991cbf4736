"""Envoy's question and the sidecar's answer, message by message."""

import asyncio

import grpc
import grpc.aio
import orjson
import pytest

from sidecar.decide.grpc.messages import LogsMessage
from tests.decide.grpc.conftest import StartGrpc
from tests.support.decide_stage import requests
from tests.support.grpc_gateway import entry, metadata_of, question, values


async def test_an_allowed_request_gets_fields_both_ways(envoy: StartGrpc) -> None:
    here, gateway = await envoy()
    answer = await gateway.check(question())
    assert answer.HasField("status") and answer.status.code == 0
    to_api = values(answer.ok_response.headers)
    assert to_api.items() >= {"X-Account-Id": "acme", "X-Plan": "free", "X-Key-Id": "k1"}.items()
    assert {one.append_action for one in answer.ok_response.headers} == {2}  # in place of others
    to_client = {o.header.key: o.append_action for o in answer.ok_response.response_headers_to_add}
    assert to_client == {"X-Request-Id": 2, "RateLimit-Policy": 0, "RateLimit": 0}
    known = metadata_of(answer)
    assert known["decision"].startswith(known["request_id"])
    assert (known["account"], known["plan"], known["class"]) == ("acme", "free", "standard")
    assert (await requests(here), here.app.decide and here.app.decide.decisions.open) == ([], 1)


async def test_a_refusal_has_the_whole_problem(envoy: StartGrpc) -> None:
    _, gateway = await envoy(quota=1)
    await gateway.check(question())
    answer = await gateway.check(question())
    assert answer.status.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    denied = answer.denied_response
    fields = values(denied.headers)
    assert denied.status.code == 429
    assert fields["Content-Type"] == "application/problem+json"
    assert int(fields["Retry-After"]) > 0
    problem = orjson.loads(denied.body)
    assert (problem["status"], problem["request_id"]) == (429, fields["X-Request-Id"])
    assert metadata_of(answer) == {
        "reason": "quota", "request_id": problem["request_id"], "account": "acme", "key": "k1",
    }  # fmt: skip
    text = await gateway.check(question(accept="text/plain"))
    assert text.denied_response.body.startswith("429 ")


async def test_a_client_of_grpc_gets_a_code_and_details(envoy: StartGrpc) -> None:
    _, gateway = await envoy(quota=1)
    asked = question("POST", "/shop.Catalog/Search", content_type="application/grpc+proto")
    await gateway.check(asked)
    denied = (await gateway.check(asked)).denied_response
    fields = values(denied.headers)
    assert fields["grpc-status"] == "8"
    assert "Content-Type" not in fields  # Envoy's
    assert denied.body == "Monthly quota used up"
    assert fields["grpc-status-details-bin"]
    unknown = question("POST", "/a.B/C", key="nobody", content_type="application/grpc")
    assert values((await gateway.check(unknown)).denied_response.headers)["grpc-status"] == "16"


@pytest.mark.parametrize("joined", ["acme,lena", "acme, acme", "acme,"])
async def test_repeated_credentials_are_refused_as_a_map_joins_them(
    envoy: StartGrpc, joined: str
) -> None:
    _, gateway = await envoy()
    answer = await gateway.check(question(key=joined))
    assert answer.denied_response.status.code == 400
    assert "ambiguous-credential" in answer.denied_response.body
    bearer = question(key=None, authorization="Bearer acme,Bearer lena")
    assert (await gateway.check(bearer)).denied_response.status.code == 400


async def test_raw_fields_are_read_in_place_of_the_map(envoy: StartGrpc) -> None:
    _, gateway = await envoy()
    asked = question(key=None)
    raw = asked.attributes.request.http.header_map.headers
    raw.add(key=":path", raw_value=b"/items")
    raw.add(key="x-api-key", raw_value=b"acme")
    assert (await gateway.check(asked)).HasField("ok_response")
    raw.add(key="x-api-key", raw_value=b"lena")
    assert (await gateway.check(asked)).denied_response.status.code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/items", 400), ("GET", "no-path", 400), ("GET", "/" + "a" * 9_000, 400),
     ("GET", "/items/\u00e9", 200), ("CONNECT", "", 400), ("G" * 40, "/", 400)],
)  # fmt: skip
async def test_a_line_that_no_route_can_match_is_refused(
    envoy: StartGrpc, method: str, path: str, status: int
) -> None:
    _, gateway = await envoy()
    answer = await gateway.check(question(method, path))
    found = answer.denied_response.status.code if answer.HasField("denied_response") else 200
    if status == 200:
        assert found in (200, 400)  # the same as at the data port: the path is not ASCII
    else:
        assert found == status


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"\x0a\x02\x22\x00"])
async def test_a_message_that_is_not_a_question_is_an_error(envoy: StartGrpc, data: bytes) -> None:
    _, gateway = await envoy()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.check(data)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_beyond_the_bound_is_an_error(envoy: StartGrpc) -> None:
    _, gateway = await envoy(decide_body_bytes=8_192)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.check(question(long="x" * 10_000))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_without_reports_the_event_is_written_at_once(envoy: StartGrpc) -> None:
    here, gateway = await envoy()
    answer = await gateway.check(question(), ("x-decide-settle", "false"))
    assert "decision" not in metadata_of(answer)
    [event] = await requests(here)
    assert event["id"] == metadata_of(answer)["request_id"]


TOKENS = {
    "meters: {requests: {unit: request}}": "meters: {requests: {unit: request}, tokens: {unit: "
    "token, reserve: {json: max_tokens, default: 7}}}",
    '{id: rest, match: "/**"}': '{id: rest, match: "/**", cost: {requests: 1, tokens: reserve}}',
}


@pytest.mark.parametrize(
    ("partial", "tokens"),
    [(["false"], 3), (["true"], 7), ([], 7), (["false", "true"], 7), (["true", "false"], 7)],
)
async def test_costs_are_read_in_a_complete_body(
    envoy: StartGrpc, partial: list[str], tokens: int
) -> None:
    """A client may send the field by which Envoy says that the body is incomplete."""
    here, gateway = await envoy(plans=TOKENS)
    asked = question("POST", content_type="application/json", content_length="17")
    http = asked.attributes.request.http
    http.raw_body = b'{"max_tokens": 3}'
    for value in partial:
        http.headers.add(key="x-envoy-auth-partial-body", value=value)
    await gateway.check(asked, ("x-decide-settle", "false"))
    [event] = await requests(here)
    assert event["data"]["usage"] == {"requests": 1, "tokens": tokens}


BY_SIZE = {
    "meters: {requests: {unit: request}}": "meters: {requests: {unit: request}, tokens: {unit: "
    "token, reserve: {bytes_per_unit: 4, default: 7}}}",
    '{id: rest, match: "/**"}': TOKENS['{id: rest, match: "/**"}'],
}


@pytest.mark.parametrize(
    ("protocol", "fields"),
    [
        ("HTTP/2", {"content_length": "40"}),
        ("HTTP/2", {}),
        ("HTTP/1.1", {"transfer_encoding": "chunked"}),
    ],
)
async def test_I11_a_body_of_unknown_size_costs_its_size_in_the_end(
    envoy: StartGrpc, protocol: str, fields: dict[str, str]
) -> None:
    here, gateway = await envoy(plans=BY_SIZE)
    asked = question("POST", **fields)
    asked.attributes.request.http.protocol = protocol
    message = LogsMessage()
    one = entry(message, metadata_of(await gateway.check(asked))["decision"])
    one.request.request_body_bytes = 40
    await gateway.log(message)
    [event] = await requests(here)
    assert event["data"]["usage"] == {"requests": 1, "tokens": 10}


async def test_a_sidecar_that_drains_refuses(envoy: StartGrpc) -> None:
    here, gateway = await envoy()
    assert here.app.decide is not None
    here.app.decide.decisions.closed = True
    answer = await gateway.check(question())
    assert answer.denied_response.status.code == 503


WAITS = {
    "quota: 1000/month, at: {50%: notice, 100%: reject}": "rate: 120/h, burst: 1, max_wait: 1m"
}


async def test_a_cancelled_check_leaves_the_wait_queue(envoy: StartGrpc) -> None:
    here, gateway = await envoy(plans=WAITS, decide_wait_ms=60_000)
    await gateway.check(question())
    call = gateway.call(question())
    async with asyncio.timeout(20):
        while not here.app.room.waiting:
            await asyncio.sleep(0.01)
        call.cancel()
        while here.app.room.waiting:
            await asyncio.sleep(0.01)
    assert here.app.decide is not None
    assert here.app.decide.decisions.open == 1
