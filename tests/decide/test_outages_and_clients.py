"""Without Redis, and the client's address behind gateways."""

import asyncio

from tests.decide.conftest import StartDecide
from tests.support.decide_stage import Gateway, requests
from tests.support.servers import free_port

ANONYMOUS = {"links:": "anonymous: {plan: free, per: address}\nlinks:"}


async def test_without_redis_classes_and_plans_decide(decide: StartDecide) -> None:
    here, gateway = await decide(redis=f"redis://127.0.0.1:{free_port()}/0")
    refused = await gateway.decide("GET", "/items")
    assert (refused["status"], refused["reason"]) == (503, "store-unavailable")
    critical = await gateway.decide("POST", "/login")
    lenient = await gateway.decide("GET", "/items", key="lena")
    for decision in (critical, lenient):
        assert decision["decision"] == "allow"
        assert (await gateway.settle(decision)).status == 200
    assert [event["subject"] for event in await requests(here)] == ["acme", "lena"]


async def test_in_local_mode_decisions_are_made_and_charged_later(decide: StartDecide) -> None:
    local = {"    when_store_is_down: deny\n": "    when_store_is_down: local\n"}
    here, gateway = await decide(plans=local)
    await gateway.decide("GET", "/items", settle=False)
    await here.app.wire.stop()
    for _ in range(2):
        decision = await gateway.decide("GET", "/items")
        assert decision["decision"] == "allow"
        assert (await gateway.settle(decision)).status == 200
    assert here.app.store.stats().allowed_locally == 2
    assert len(await requests(here)) == 3


async def test_anonymous_clients_are_distinguished_by_the_reported_address(
    decide: StartDecide,
) -> None:
    here, gateway = await decide(plans=ANONYMOUS, trusted_proxies="10.0.0.0/8")
    question = {"method": "GET", "path": "/items", "settle": False}
    await gateway.ask("/v1/decide", question | {"address": "192.0.2.1"})
    for forwarded in ("192.0.2.2", "203.0.113.9, 192.0.2.3", "192.0.2.4, 10.1.1.1"):
        fields = {"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/items"}
        answer = await gateway.ask(
            "/v1/forward-auth", method="GET", **fields, X_Forwarded_For=forwarded
        )
        assert answer.status == 200
    subjects = [event["subject"] for event in await requests(here)]
    assert subjects == [f"anonymous/192.0.2.{number}" for number in (1, 2, 3, 4)]


async def test_the_plain_form_reads_a_forwarded_body_for_its_cost(decide: StartDecide) -> None:
    plans = {
        "meters: {requests: {unit: request}}": "meters:\n  requests: {unit: request}\n"
        "  credits: {unit: credit, reserve: {json: credits, default: 1}}",
        "routes:\n": 'routes:\n  - {id: chat, match: "POST /chat", cost: {credits: reserve}}\n',
    }
    here, gateway = await decide(plans=plans)
    answer = await gateway.ask(
        "/v1/forward-auth", {"credits": 12}, X_Api_Key="acme", X_Forwarded_Method="POST",
        X_Forwarded_Uri="/chat", Content_Type="application/json",
    )  # fmt: skip
    assert answer.status == 200
    assert (await requests(here))[0]["data"]["usage"] == {"credits": 12}


async def test_decisions_are_made_at_the_same_time(decide: StartDecide) -> None:
    here, gateway = await decide(quota=20)
    others = [Gateway(gateway.path) for _ in range(10)]

    async def run(one: Gateway) -> int:
        allowed = 0
        for _ in range(4):
            decision = await one.decide("GET", "/items")
            if decision["decision"] == "allow":
                allowed += 1
                assert (await one.settle(decision)).status == 200
        return allowed

    assert sum(await asyncio.gather(*(run(one) for one in others))) == 20
    assert len(await requests(here)) == 20
    for one in others:
        await one.close()
