"""Each vector of plugins/vectors.json, at the decide port in its three forms."""

from typing import Any

import pytest

from tests.decide.conftest import StartDecide
from tests.support.decide_stage import Answer, Gateway, requests
from tests.support.vectors import PLANS, VECTORS, check_refusal, named


async def start(decide: StartDecide) -> tuple[Any, Gateway]:
    here, gateway = await decide()
    here.plans.write_text(PLANS)
    assert await here.app.keeper.reload(), here.app.keeper.status()
    return here, gateway


def question(one: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = dict(one["request"])
    return request | {"settle": one.get("needs") == "settlement"}


async def check_json(here: Any, gateway: Gateway, one: dict[str, Any]) -> None:
    expect = one["expect"]
    for _ in range(one.get("after", 0)):
        before = await gateway.ask("/v1/decide", question(one))
        assert before.document["decision"] == "allow"
    events = len(await requests(here))
    answer = (await gateway.ask("/v1/decide", question(one))).document
    assert answer["decision"] == expect["decision"], answer
    if expect["decision"] == "refuse":
        assert answer["status"] == expect["status"]
        assert answer["reason"] == expect.get("reason", answer["reason"])
        check_refusal(expect, answer["headers"], answer["body"])
        assert len(await requests(here)) == events
        return
    assert answer["class"] == expect["class"]
    assert expect["upstream_headers"].items() <= answer["request_headers"].items()
    assert set(expect.get("response_headers", ())) <= answer["response_headers"].keys()
    if "response" in one:
        await gateway.settle(answer, **one["response"])
        data = (await requests(here))[-1]["data"]
        assert data["usage"] == expect["usage"]
        assert data["billable"] is expect.get("billable", True)


async def test_the_json_form_answers_as_every_vector_says(decide: StartDecide) -> None:
    here, gateway = await start(decide)
    for one in VECTORS:
        with named(one):
            await check_json(here, gateway, one)


async def ask_plain(gateway: Gateway, path: str, one: dict[str, Any], names: str) -> Answer:
    """The question in header fields: X-Forwarded-* as of Traefik, X-Original-* as of nginx."""
    request, uri = one["request"], "Uri" if names == "Forwarded" else "URI"
    fields = {f"X-{names}-Method": request["method"], f"X-{names}-{uri}": request["path"]}
    return await gateway.ask(path, method="GET", **(request["headers"] | fields))


async def check_plain(here: Any, gateway: Gateway, one: dict[str, Any], form: str) -> None:
    expect = one["expect"]
    names = "Forwarded" if form == "forward-auth" else "Original"
    for _ in range(one.get("after", 0)):
        assert (await ask_plain(gateway, f"/v1/{form}", one, names)).status == 200
    events = len(await requests(here))
    answer = await ask_plain(gateway, f"/v1/{form}", one, names)
    if expect["decision"] == "allow":
        assert answer.status == 200
        assert expect["upstream_headers"].items() <= answer.fields.items()
        assert set(expect.get("response_headers", ())) <= answer.fields.keys()
        assert len(await requests(here)) == events + 1
        return
    if form == "auth-request":
        assert answer.status == 403
        carried = answer.fields["X-Refusal"]
        answer = await gateway.ask("/v1/refusal", method="GET", X_Refusal=carried)
    assert answer.status == expect["status"]
    check_refusal(expect, answer.fields, answer.body.decode())


@pytest.mark.parametrize("form", ["forward-auth", "auth-request"])
async def test_the_plain_forms_answer_as_every_vector_says(decide: StartDecide, form: str) -> None:
    here, gateway = await start(decide)
    for one in VECTORS:
        if one.get("needs") != "settlement":
            with named(one):
                await check_plain(here, gateway, one, form)


def test_each_vector_has_an_account_of_its_own() -> None:
    keys = [one["request"]["headers"].get("X-Api-Key") for one in VECTORS]
    known = [key for key in keys if key]
    assert len(known) == len(set(known))
    assert len({one["name"] for one in VECTORS}) == len(VECTORS)
