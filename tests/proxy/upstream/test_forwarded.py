"""The client behind a trusted proxy, in every form in which proxies name it."""

import time

import pytest

from sidecar.proxy.downstream.request import Request
from sidecar.proxy.forwarded import NO_ADDRESS, Hop, address_of, note_client, parse_forwarded
from tests.proxy.upstream.test_identity_headers import got
from tests.support.stage import Stage, StartStage, status

ANONYMOUS = "anonymous: {plan: free, per: address}\n"


async def account(here: Stage, **fields: str) -> str:
    """The account of an anonymous request with these fields."""
    assert status(await here.call("GET", "/x", None, **fields)) == 200
    return got(here, b"X-Account-Id")[0].decode().removeprefix("anonymous/")


async def trusting(stage: StartStage, networks: str = "127.0.0.1,10.0.0.0/8") -> Stage:
    here = await stage(trusted_proxies=networks)
    here.plans.write_text(here.plans.read_text() + ANONYMOUS)
    await here.app.keeper.reload()
    return here


LISTS = {
    "203.0.113.9": "203.0.113.9",
    "203.0.113.9:51234": "203.0.113.9",
    "2001:db8:1:2::5": "2001:db8:1:2::/64",
    "[2001:db8:1:2::5]": "2001:db8:1:2::/64",
    "[2001:db8:1:2::5]:443": "2001:db8:1:2::/64",
    '"[2001:db8:1:2::5]:443"': "2001:db8:1:2::/64",
    "::ffff:203.0.113.9": "203.0.113.9",
    "[::ffff:203.0.113.9]:80": "203.0.113.9",
    "198.51.100.1, 203.0.113.9:1, 10.1.2.3:80": "203.0.113.9",
    "198.51.100.1, [2001:db8:1:2::5]:9, 10.1.2.3": "2001:db8:1:2::/64",
    "fe80::1%eth0": "fe80::/64",
    "unknown": "unknown",
    "_hidden, 10.1.2.3": "unknown",
    "203.0.113.9, unknown": "unknown",
    "203.0.113.9, garbage": "unknown",
    "203.0.113.9, 10.1.2.3:port": "unknown",
    "203.0.113.9, 300.1.1.1": "unknown",
    "203.0.113.9, [::1": "unknown",
    "10.1.2.3": "10.1.2.3",
    "": "127.0.0.1",
}
FORWARDED = {
    "for=203.0.113.9": "203.0.113.9",
    'for="203.0.113.9:51234"': "203.0.113.9",
    'For="[2001:db8:1:2::5]"': "2001:db8:1:2::/64",
    'for="[2001:db8:1:2::5]:443";proto=https': "2001:db8:1:2::/64",
    "for=[2001:db8:1:2::5]:443": "2001:db8:1:2::/64",
    "proto=http; by=10.0.0.1 ;FOR=203.0.113.9": "203.0.113.9",
    "for=198.51.100.1, for=203.0.113.9;proto=https , for=10.1.2.3": "203.0.113.9",
    'for=203.0.113.9;host="a,b;c\\"d"': "203.0.113.9",
    "for=unknown": "unknown",
    'for="_gazonk"': "unknown",
    "for=203.0.113.9, for=_SEVKISEK": "unknown",
    "for=203.0.113.9;for=198.51.100.1": "unknown",
    'for="203.0.113.9': "unknown",
    "203.0.113.9": "unknown",
    "proto=https": "unknown",
}


@pytest.mark.parametrize("value", LISTS)
async def test_proxy_xff_port_and_ipv6_forms_name_the_client(stage: StartStage, value: str) -> None:
    here = await trusting(stage)
    assert await account(here, X_Forwarded_For=value) == LISTS[value]


@pytest.mark.parametrize("value", FORWARDED)
async def test_limits_08_forwarded_alone_names_the_client(stage: StartStage, value: str) -> None:
    here = await trusting(stage)
    assert await account(here, Forwarded=value) == FORWARDED[value]


async def test_forwarded_does_not_outrank_x_forwarded_for(stage: StartStage) -> None:
    here = await trusting(stage)
    fields = {"X_Forwarded_For": "203.0.113.9", "Forwarded": "for=198.51.100.1;proto=ftp"}
    assert await account(here, **fields) == "203.0.113.9"
    assert got(here, b"X-Forwarded-Proto") == [b"http"]


async def test_proxy_forwarded_proto_and_host_are_passed_on(stage: StartStage) -> None:
    here = await trusting(stage)
    value = (
        'for=1.1.1.1;host=evil.test, for="203.0.113.9:1";proto=https;host=shop.test, for=10.0.0.7'
    )
    await account(here, Forwarded=value)
    assert got(here, b"X-Forwarded-Proto") == [b"https"]
    assert got(here, b"X-Forwarded-Host") == [b"shop.test"]
    assert got(here, b"X-Forwarded-For") == [b"1.1.1.1, 203.0.113.9, 10.0.0.7, 127.0.0.1"]
    assert got(here, b"Forwarded") == [f"{value}, for=127.0.0.1;proto=http".encode()]


async def test_invalid_parts_of_forwarded_are_not_passed_on(stage: StartStage) -> None:
    here = await trusting(stage)
    await account(here, Forwarded='for=203.0.113.9;proto="ht tp";host="a b"')
    assert got(here, b"X-Forwarded-Proto") == [b"http"]
    assert got(here, b"X-Forwarded-Host") == [b"api.test"]
    assert await account(here, Forwarded="for=203.0.113.9;;=") == "unknown"
    assert got(here, b"Forwarded") == []


async def test_proxy_forwarded_port_is_kept(stage: StartStage) -> None:
    here = await trusting(stage)
    await account(here, X_Forwarded_For="203.0.113.9", X_Forwarded_Port="8443")
    assert got(here, b"X-Forwarded-Port") == [b"8443"]


async def test_an_unreadable_address_is_logged_once_for_each_proxy(
    stage: StartStage, capfd: pytest.CaptureFixture[str]
) -> None:
    here = await trusting(stage)
    for _ in range(3):
        assert await account(here, X_Forwarded_For="?") == "unknown"
    out, err = capfd.readouterr()
    assert (out + err).count("client_address_unknown") == 1


async def test_an_untrusted_peers_forms_are_ignored(stage: StartStage) -> None:
    here = await trusting(stage, "10.0.0.0/8")
    for fields in ({"X_Forwarded_For": "unknown"}, {"Forwarded": "for=203.0.113.9;proto=https"}):
        assert await account(here, **fields) == "127.0.0.1"
        assert got(here, b"X-Forwarded-Proto") == [b"http"]
        assert got(here, b"X-Forwarded-For") == [b"127.0.0.1"]


def test_forwarded_is_parsed_as_in_rfc_7239() -> None:
    assert parse_forwarded([b'For="[2001:db8:cafe::17]:4711"']) == [
        Hop(b"[2001:db8:cafe::17]:4711")
    ]
    assert parse_forwarded([b"for=192.0.2.43, for=198.51.100.17", b"for=a;proto=http;by=b"]) == [
        Hop(b"192.0.2.43"), Hop(b"198.51.100.17"), Hop(b"a", b"http"),
    ]  # fmt: skip
    assert parse_forwarded([b" , for=a ,, "]) == [Hop(b"a")]
    assert parse_forwarded([b"for = a"]) is None


@pytest.mark.parametrize(
    "value",
    [b" " * 60_000 + b"x", b'for="' + b"\\" * 60_000, b"a" * 60_000, b";" * 60_000 + b"=",
     b'for="' + b"a" * 60_000, b"a=" * 30_000, b"[" * 60_000, b":" * 60_000],
)  # fmt: skip
def test_hostile_values_take_linear_time(value: bytes) -> None:
    def cost(text: bytes) -> float:
        times = []
        for _ in range(5):
            before = time.process_time()
            parse_forwarded([text])
            assert address_of(text) == NO_ADDRESS
            times.append(time.process_time() - before)
        return min(times)

    assert cost(value) < 9 * cost(value[: len(value) // 4]) + 0.01


def test_x_forwarded_fields_that_are_there_count_before_forwarded() -> None:
    request = Request("10.0.0.1")
    request.forwarded = (b"for=203.0.113.9;proto=http;host=inner.example",)
    request.forwarded_proto, request.forwarded_host = (b"https",), (b"api.example",)
    note_client(request, lambda address: address.startswith("10."))
    assert request.address == "203.0.113.9"
    assert list(request.forwarded_for) == [b"203.0.113.9"]
    assert (list(request.forwarded_proto), list(request.forwarded_host)) == (
        [b"https"], [b"api.example"]
    )  # fmt: skip
