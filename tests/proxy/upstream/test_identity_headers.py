"""The identity of the client, as the upstream sees it."""

import hashlib

from tests.support.stage import Stage, StartStage, problem, status


def got(here: Stage, name: bytes) -> list[bytes]:
    """The values of a field in the last request to the upstream."""
    head = bytes(here.upstream.received).split(b"\r\n\r\n")[-2]
    lines = head.split(b"\r\n")[1:]
    return [
        line.partition(b": ")[2] for line in lines if line.lower().startswith(name.lower() + b": ")
    ]


FORWARDED = {
    "X_Forwarded_For": "198.51.100.7, 10.1.2.3",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "shop.example",
    "Forwarded": "for=198.51.100.7",
}


async def test_forwarded_fields_of_an_untrusted_peer_are_replaced(stage: StartStage) -> None:
    here = await stage()
    await here.call("GET", "/x", **FORWARDED)
    assert got(here, b"X-Forwarded-For") == [b"127.0.0.1"]
    assert got(here, b"X-Forwarded-Proto") == [b"http"]
    assert got(here, b"X-Forwarded-Host") == [b"api.test"]
    assert got(here, b"Forwarded") == []


async def test_forwarded_fields_of_a_trusted_proxy_are_extended(stage: StartStage) -> None:
    here = await stage(trusted_proxies="127.0.0.0/8,10.0.0.0/8")
    await here.call("GET", "/x", **FORWARDED)
    assert got(here, b"X-Forwarded-For") == [b"198.51.100.7, 10.1.2.3, 127.0.0.1"]
    assert got(here, b"X-Forwarded-Proto") == [b"https"]
    assert got(here, b"X-Forwarded-Host") == [b"shop.example"]
    assert got(here, b"Forwarded") == [b"for=198.51.100.7, for=127.0.0.1;proto=http"]


async def subjects(here: Stage) -> set[str]:
    return {event["subject"] for event in await here.events()}


async def test_anonymous_clients_are_identified_by_the_address_from_a_trusted_proxy(
    stage: StartStage,
) -> None:
    here = await stage(trusted_proxies="127.0.0.1,10.0.0.0/8")
    here.plans.write_text(here.plans.read_text() + "anonymous: {plan: free, per: address}\n")
    await here.app.keeper.reload()
    assert status(await here.call("GET", "/x", None, **FORWARDED)) == 200
    assert await subjects(here) == {"anonymous/198.51.100.7"}


async def test_an_untrusted_peer_cannot_choose_its_address(stage: StartStage) -> None:
    here = await stage()
    here.plans.write_text(here.plans.read_text() + "anonymous: {plan: free, per: address}\n")
    await here.app.keeper.reload()
    assert status(await here.call("GET", "/x", None, **FORWARDED)) == 200
    assert await subjects(here) == {"anonymous/127.0.0.1"}


async def test_the_clients_host_is_kept_unless_the_settings_replace_it(stage: StartStage) -> None:
    here = await stage()
    await here.call("GET", "/x")
    assert got(here, b"Host") == [b"api.test"]
    other = await stage(upstream_host="internal.example:81")
    await other.call("GET", "/x")
    assert got(other, b"Host") == [b"internal.example:81"]
    assert got(other, b"X-Forwarded-Host") == [b"api.test"]


async def test_via_is_extended_and_the_sidecars_pseudonym_in_it_is_a_loop(
    stage: StartStage,
) -> None:
    here = await stage(via_name="edge-7")
    await here.call("GET", "/x", Via="1.0 fred, 1.1 p.example")
    assert got(here, b"Via") == [b"1.0 fred, 1.1 p.example, 1.1 edge-7"]
    before = len(here.upstream.received)
    document = problem(await here.call("GET", "/x", Via="1.1 Edge-7 (comment)"))
    assert document["status"] == 508
    assert len(here.upstream.received) == before
    assert len(await here.events()) == 1


async def test_two_sidecars_in_a_row_are_not_a_loop(stage: StartStage) -> None:
    inner = await stage(source="/sidecar/inner")
    outer = await stage(
        source="/sidecar/outer", upstream=f"http://127.0.0.1:{inner.app.data_port.port}"
    )
    assert status(await outer.call("GET", "/x")) == 200
    names = [hashlib.sha256(one.encode()).hexdigest()[:12] for one in
             ("/sidecar/outer", "/sidecar/inner")]  # fmt: skip
    assert got(inner, b"Via") == [", ".join(f"1.1 sidecar-{name}" for name in names).encode()]


async def test_own_answers_forbid_to_guess_their_type(stage: StartStage) -> None:
    here = await stage()
    for answer in (await here.call("GET", "/x", "wrong"), await here.call("GET", "/-/none")):
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
    assert b"nosniff" not in await here.call("GET", "/x")
