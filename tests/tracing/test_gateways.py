"""Decisions for gateways are traced until the gateway's report."""

from tests.decide.conftest import StartDecide, decide
from tests.tracing.conftest import ATTRIBUTES, Receiver
from tests.tracing.test_traces import PARENT, SAMPLED, SERVER, TRACE

__all__ = ["decide"]


async def test_a_decision_and_its_report_are_one_trace(
    decide: StartDecide, receiver: Receiver
) -> None:
    here, gateway = await decide(trace_endpoint=receiver.url, trace_ratio="0")
    asked = await gateway.decide("GET", "/items", headers={"traceparent": SAMPLED})
    assert not receiver.spans
    assert (await gateway.settle(asked, status=201)).status == 200
    await here.app.stop()
    [root] = receiver.named("GET rest")
    assert (root["kind"], root["trace_id"], root["parent"]) == (SERVER, TRACE, PARENT)
    assert root[ATTRIBUTES]["http.response.status_code"] == "201"
    assert root[ATTRIBUTES]["sidecar.request_id"] == asked["request_id"]
    assert {span["name"] for span in receiver.spans} == {
        "GET rest", "identify", "reserve", "settle",
    }  # fmt: skip
    assert {span["parent"] for span in receiver.spans if span is not root} == {root["span_id"]}


async def test_a_refusal_for_a_gateway_is_traced(decide: StartDecide, receiver: Receiver) -> None:
    here, gateway = await decide(trace_endpoint=receiver.url, trace_ratio="0")
    headers = {"traceparent": SAMPLED}
    asked = await gateway.decide("GET", "/items", key="unknown", headers=headers)
    assert asked["decision"] == "refuse"
    await here.app.stop()
    [root] = [span for span in receiver.spans if span["kind"] == SERVER]
    assert root["trace_id"] == TRACE
    assert root[ATTRIBUTES]["sidecar.outcome"] == "unknown-key"
