"""Heads of requests as RFC 9110, RFC 9112 and W3C Trace Context have them."""

import pytest

from sidecar.proxy.downstream.request import Request
from sidecar.proxy.heads import ProxyOptions, _forwarded
from tests.proxy.upstream.test_identity_headers import got
from tests.support.stage import Stage, StartStage, problem, status

PARENT = "00-12345678901234567890123456789012-1234567890123456-01"
TRACE = "12345678901234567890123456789012"


async def send(here: Stage, head: str) -> bytes:
    return await here.raw(f"{head}X-Api-Key: acme\r\n\r\n".replace("\n", "\r\n").replace(
        "\r\r", "\r").encode())  # fmt: skip


async def test_host_none_http10_gets_the_upstreams_authority(stage: StartStage) -> None:
    here = await stage()
    assert status(await send(here, "GET /x HTTP/1.0\n")) == 200
    assert got(here, b"Host") == [f"127.0.0.1:{here.upstream.port}".encode()]
    assert got(here, b"X-Forwarded-Host") == []
    assert status(await send(here, "GET /x HTTP/1.0\nHost: a.test\n")) == 200
    assert got(here, b"Host") == [b"a.test"]


@pytest.mark.parametrize("host", ["api.test:", "api.test", "[::1]:", "[::1]:80", "a:65535"])
async def test_host_empty_port_is_valid(stage: StartStage, host: str) -> None:
    here = await stage()
    assert status(await send(here, f"GET /x HTTP/1.1\nHost: {host}\n")) == 200
    assert got(here, b"Host") == [host.encode()]


@pytest.mark.parametrize("host", ["a b", "a:b", "a:1:2", "[::1", "a/b", "u@a", ":80", ""])
async def test_an_invalid_host_is_refused(stage: StartStage, host: str) -> None:
    here = await stage()
    assert status(await send(here, f"GET /x HTTP/1.1\nHost: {host}\n")) == 400


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 64, 10**30])
async def test_a_content_length_of_2_to_the_63_or_more_is_refused(
    stage: StartStage, length: int
) -> None:
    here = await stage()
    answer = await send(here, f"POST /x HTTP/1.1\nHost: a\nContent-Length: {length}\n")
    assert problem(answer)["status"] == 400
    assert not here.upstream.received


@pytest.mark.parametrize(
    ("fields", "trace", "states"),
    [
        ([f"traceparent: {PARENT}"], True, []),
        ([f"traceparent: {PARENT}", "tracestate: a=1", "tracestate: b=2"], True, ["a=1,b=2"]),
        ([f"traceparent: {PARENT}-"], False, []),
        ([f"traceparent: {PARENT}-what-the-future-will-be-like", "tracestate: a=1"], False, []),
        ([f"traceparent: cc{PARENT[2:]}-what-the-future-will-be-like"], True, []),
        ([f"traceparent: cc{PARENT[2:]}.x"], False, []),
        ([f"traceparent: ff{PARENT[2:]}"], False, []),
        ([f"traceparent: {PARENT.upper()}A"], False, []),
        ([f"traceparent: {PARENT}"] * 2 + ["tracestate: foo=1"], False, []),
        (["tracestate: foo=1"], False, []),
        ([f"traceparent: {PARENT}", "tracestate: " + ",".join(f"k{n}=1" for n in range(32))], True,
         [",".join(f"k{n}=1" for n in range(32))]),
        ([f"traceparent: {PARENT}", "tracestate: " + ",".join(f"k{n}=1" for n in range(20)),
          "tracestate: " + ",".join(f"l{n}=1" for n in range(13))], True, []),
        ([f"traceparent: {PARENT}", "tracestate: a=1", "Connection: tracestate"], True, []),
        ([f"traceparent: {PARENT}", "tracestate: "], True, []),
    ],
)  # fmt: skip
async def test_trace_context_is_passed_on_by_its_specification(
    stage: StartStage, fields: list[str], trace: bool, states: list[str]
) -> None:
    here = await stage()
    lines = "".join(f"{field}\n" for field in fields)
    assert status(await send(here, f"GET /x HTTP/1.1\nHost: a\n{lines}")) == 200
    (parent,) = got(here, b"traceparent")
    assert (TRACE.encode() in parent) is trace
    assert parent.startswith(b"00-")
    assert got(here, b"tracestate") == [state.encode() for state in states]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/@scope%2Fname", 200), ("/projects/group%2fname/issues", 200), ("/bucket/a%2F%2Fb", 200),
        ("/a%2Fb;v=1", 200), ("/status%2F", 400), ("/bulk%2Fx", 400), ("/x/..%2Fbulk%2Fy", 400),
        ("/a%2F..%2Fbulk/y", 400), ("/a%2F../bulk/x", 400), ("/a%252Fb", 400),
        ("/x%2F%2e%2e%2Fbulk", 400), ("/%2Fbulk/x", 400), ("/bulk;x%2Fy", 400),
    ],
)  # fmt: skip
async def test_an_encoded_slash_passes_where_all_readings_are_one_route(
    stage: StartStage, target: str, wanted: int
) -> None:
    here = await stage()
    assert status(await send(here, f"GET {target} HTTP/1.1\nHost: a\n")) == wanted
    if wanted == 200:
        assert here.upstream.received.startswith(f"GET {target} HTTP/1.1\r\n".encode())
    else:
        assert not here.upstream.received


async def test_legacy_fields_replace_the_apis_and_are_there_once(stage: StartStage) -> None:
    here = await stage(legacy_headers="true", quota=1)
    here.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 60\r\nx-ratelimit-reset: 9\r\nX-RateLimit-Used: 3"
        b"\r\nContent-Length: 0\r\n\r\n"
    )
    answer = await here.call("GET", "/x")
    assert answer.lower().count(b"\r\nx-ratelimit-limit:") == 1
    assert answer.lower().count(b"\r\nx-ratelimit-reset:") == 1
    assert b"X-RateLimit-Limit: 60" not in answer
    assert b"X-RateLimit-Used: 3\r\n" in answer
    refused = await here.call("GET", "/x")
    assert status(refused) == 429
    for name in (b"Limit: 1", b"Remaining: 0", b"Reset: "):
        assert refused.count(b"\r\nX-RateLimit-" + name) == 1


async def test_the_apis_legacy_fields_stay_without_the_setting(stage: StartStage) -> None:
    here = await stage()
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 60\r\nContent-Length: 0\r\n\r\n"
    assert b"\r\nX-RateLimit-Limit: 60\r\n" in await here.call("GET", "/x")


@pytest.mark.parametrize("legacy", ["true", "false"])
async def test_own_errors_of_counted_requests_tell_the_limits(
    stage: StartStage, legacy: str
) -> None:
    here = await stage(legacy_headers=legacy)
    here.upstream.answer = b"nonsense\r\n\r\n"
    answer = await here.call("GET", "/x")
    assert status(answer) == 502
    assert b'\r\nRateLimit: "monthly";r=' in answer
    assert b"\r\nRateLimit-Policy: " in answer
    assert (b"\r\nX-RateLimit-Remaining: " in answer) is (legacy == "true")
    assert b"RateLimit" not in await here.call("GET", "/status")


@pytest.mark.parametrize(
    ("before", "version", "expected"),
    [
        ("", "1.1", "1.1 sidecar"),
        ("", "1.0", "1.0 sidecar"),
        ("Via: 1.1 edge\n", "1.1", "1.1 edge, 1.1 sidecar"),
        ("Via: 1.0 far\nVia: 1.1 edge\n", "1.0", "1.0 far, 1.1 edge, 1.0 sidecar"),
    ],
)
async def test_via_has_the_version_of_the_message_that_was_received(
    stage: StartStage, before: str, version: str, expected: str
) -> None:
    """RFC 9110, section 7.6.3."""
    here = await stage()
    head = f"GET /x HTTP/{version}\nHost: a\n{before}"
    assert status(await send(here, head + "Connection: close\n")) == 200
    [via] = got(here, b"Via")
    assert via.rpartition(b"-")[0].decode() == expected  # the pseudonym has a random end


@pytest.mark.parametrize(
    ("peer", "node"), [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", '"[2001:db8::1]"')]
)
def test_the_peer_is_a_node_of_forwarded(peer: str, node: str) -> None:
    """RFC 7239, section 6: an IPv6 address is in brackets, and so in quotes."""
    request = Request(peer)
    request.forwarded = (b"for=203.0.113.9",)
    lines = _forwarded(request, b"a", ProxyOptions(trusts=lambda _: True))
    assert f"Forwarded: for=203.0.113.9, for={node};proto=http\r\n".encode() in lines
