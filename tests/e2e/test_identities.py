"""Identities without an active key: anonymous clients by address, and suspended accounts."""

import asyncio
from pathlib import Path

import pytest

from sidecar.core.identity import anonymous_key
from tests.support.stage import Stage, StartStage, plans_text, problem, status

CALL = b"GET /items HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
ANONYMOUS = "anonymous: {plan: free, per: address}\n"


async def call_from(here: Stage, address: str, host: str = "127.0.0.1") -> bytes:
    """Send a request without an API key from one of this machine's addresses."""
    reader, writer = await asyncio.open_connection(
        host, here.app.data_port.port, local_addr=(address, 0)
    )
    writer.write(CALL)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
def open_to_all(tmp_path: Path) -> Path:
    plans = tmp_path / "open.yaml"
    plans.write_text(plans_text(quota=2) + ANONYMOUS)
    return plans


async def test_I1_each_address_without_a_key_is_an_account_of_the_anonymous_plan(
    stage: StartStage, open_to_all: Path
) -> None:
    here = await stage(plans=str(open_to_all))
    statuses = [status(await call_from(here, "127.0.0.1")) for _ in range(3)]
    assert statuses == [200, 200, 429]
    statuses = [status(await call_from(here, "127.0.0.2")) for _ in range(3)]
    assert statuses == [200, 200, 429]  # each has its own quota
    received = bytes(here.upstream.received)
    assert (
        b"X-Account-Id: anonymous/127.0.0.2\r\nX-Plan: free\r\nX-Key-Id: anonymous\r\n" in received
    )
    charged = [e["subject"] for e in await here.events() if e["type"] == "api.request.v1"]
    assert charged == ["anonymous/127.0.0.1"] * 2 + ["anonymous/127.0.0.2"] * 2


async def test_an_anonymous_client_cannot_choose_its_address(
    stage: StartStage, open_to_all: Path
) -> None:
    here = await stage(plans=str(open_to_all))
    for number in range(3):
        answer = await here.call(
            "GET",
            "/items",
            key=None,
            X_Forwarded_For=f"192.0.2.{number}",
            Forwarded="for=192.0.2.9",
        )
    assert status(answer) == 429
    assert "anonymous/127.0.0.1" in problem(answer)["detail"]


async def test_a_wrong_key_is_not_anonymous(stage: StartStage, open_to_all: Path) -> None:
    here = await stage(plans=str(open_to_all))
    assert status(await here.call("GET", "/items", key="nobody")) == 401
    assert status(await here.call("GET", "/bulk/1", key=None)) == 403
    assert here.upstream.received == b""


async def test_an_ipv6_client_is_identified_by_its_64_bit_network(
    stage: StartStage, open_to_all: Path
) -> None:
    # The loopback has one IPv6 address; other tests cover two addresses of one network.
    here = await stage(plans=str(open_to_all), listen="[::1]:0")
    statuses = [status(await call_from(here, "::1", host="::1")) for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert b"X-Account-Id: anonymous/::/64\r\n" in here.upstream.received
    one, other, stranger = (
        anonymous_key(address, "free").account.id
        for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")
    )
    assert one == other == "anonymous/2001:db8:1:2::/64"
    assert stranger != one


async def test_without_an_anonymous_plan_a_key_is_required(stage: StartStage) -> None:
    here = await stage()
    answer = await call_from(here, "127.0.0.1")
    assert status(answer) == 401
    assert b'WWW-Authenticate: Bearer realm="api"' in answer
    document = problem(answer)
    assert document["type"].endswith("/problems/no-credential")
    assert "X-Api-Key" in document["how_to_fix"][0]["what"]


async def test_a_reload_can_add_and_remove_the_anonymous_plan(stage: StartStage) -> None:
    here = await stage()
    closed = here.plans.read_text()
    here.plans.write_text(closed + ANONYMOUS)
    assert await here.app.keeper.reload()
    assert status(await call_from(here, "127.0.0.1")) == 200
    here.plans.write_text(closed)
    assert await here.app.keeper.reload()
    assert status(await call_from(here, "127.0.0.1")) == 401


async def test_a_suspended_account_gets_402_also_on_critical_routes_until_it_is_resumed(
    stage: StartStage,
) -> None:
    here = await stage()
    for method, path in (("GET", "/items"), ("GET", "/status"), ("POST", "/login")):
        answer = await here.call(method, path, key="late", Content_Length="0")
        assert status(answer) == 402
        assert b"Retry-After" not in answer
        document = problem(answer)
        assert document["type"].endswith("/problems/suspended")
        assert [step["action"] for step in document["how_to_fix"]] == ["settle_account"]
    assert here.upstream.received == b""
    assert await here.events() == []
    here.plans.write_text(here.plans.read_text().replace("status: suspended, ", ""))
    assert await here.app.keeper.reload()
    assert status(await here.call("GET", "/items", key="late")) == 200


async def test_api_keys_are_forwarded_unless_that_is_off(stage: StartStage) -> None:
    head = b"GET /items HTTP/1.1\r\nHost: a\r\n"
    ways = (b"X-Api-Key: acme\r\n", b"Authorization: Bearer acme\r\n", b"x-api-key:acme\r\n",
            b"AUTHORIZATION:bearer  acme\r\n")  # fmt: skip
    other = b"Authorization: Basic dXNlcjpwdw==\r\n"
    on, off = await stage(), await stage(forward_credentials="off")
    for way in ways:
        for here, forwarded in ((on, True), (off, False)):
            here.upstream.received.clear()
            assert status(await here.raw(head + way + b"\r\n")) == 200
            received = bytes(here.upstream.received)
            assert (way.partition(b":")[0] + b": " in received) is forwarded
            assert b"X-Account-Id: acme\r\n" in received
            assert received.lower().count(b"acme") == (2 if forwarded else 1)
    assert status(await off.raw(head + ways[0] + other + b"\r\n")) == 200
    assert other in bytes(off.upstream.received)
