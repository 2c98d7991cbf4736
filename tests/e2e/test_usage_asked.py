"""Routes with `ask_usage`: the API is asked for the usage of streams, unseen by the client."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.model import Account, Pack
from sidecar.stores.admin import Admin
from tests.support.stage import Stage, StartStage

PLANS = """
version: 1
meters:
  tokens:
    unit: token
    reserve: {json: max_tokens, default: 7, max_bytes: 262144}
    settle: {json: usage.total_tokens}
routes:
  - {id: chat, match: "/chat", cost: {tokens: reserve}, ask_usage: true}
  - {id: fixed, match: "/fixed", cost: {tokens: 3}, ask_usage: true}
  - {id: quiet, match: "/quiet", cost: {tokens: reserve}}
plans: {pro: {limits: [{id: q, meter: tokens, quota: 1000000000/month}]}}
accounts:
  - id: acme
    plan: pro
    keys: [{id: k1, sha256: 1fbfd5e2a34698deb796eb78add256a067ec065519b8329b1eb85f5e2ef906d4}]
"""
ASK = b'{"max_tokens": 1, "stream": true, "n": 1e400}'
ASKED = b'{"stream_options":{"include_usage":true},"max_tokens": 1, "stream": true, "n": 1e400}'
WORD = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
WORD_ALONE = WORD.replace(b',"usage":null', b"")
USAGE = b'data: {"choices":[],"usage":{"total_tokens":50}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = WORD + WORD + USAGE + DONE
SEEN = WORD_ALONE + WORD_ALONE + DONE


@pytest.fixture
async def here(stage: StartStage, tmp_path: Path) -> Stage:
    plans = tmp_path / "asking.yaml"
    plans.write_text(PLANS)
    here = await stage(plans=str(plans))
    here.upstream.answer = in_pieces(STREAM)
    return here


def in_pieces(body: bytes, fields: bytes = b"", size: int = 17) -> bytes:
    """A streamed response in chunks of this size."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b"
        b"Transfer-Encoding: chunked\r\n\r\n"
        % fields
        + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        + b"0\r\n\r\n"
    )


async def send(
    here: Stage, body: bytes = ASK, fields: bytes = b"", *, to: str = "chat", sized: bool = True
) -> tuple[bytes, bytes]:
    """Send a request on a connection that closes after it. Returns head and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    framing = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if not sized:
        framing = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    if b"content-type" not in fields.lower():
        fields += b"Content-Type: application/json\r\n"
    writer.write(
        b"POST /%b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n%bConnection: close"
        b"\r\n%b" % (to.encode(), fields, framing)
    )
    async with asyncio.timeout(20):
        head, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    if b"\r\ntransfer-encoding: chunked" in head.lower():
        rest = dechunked(rest)
    return head, rest


def dechunked(data: bytes) -> bytes:
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return b"".join(parts)


async def data_of(here: Stage) -> dict[str, Any]:
    [data] = [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]
    return data  # type: ignore[no-any-return]


@pytest.mark.parametrize("to", ["chat", "fixed"])
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
async def test_I11_the_api_is_asked_and_the_client_does_not_see_it(
    here: Stage, to: str, sized: bool
) -> None:
    head, body = await send(here, fields=b"Accept-Encoding: gzip\r\n", to=to, sized=sized)
    assert body == SEEN
    received = bytes(here.upstream.received)
    assert ASKED in received
    assert b"\r\nAccept-Encoding: identity\r\n" in received
    assert b"gzip" not in received
    if sized:
        assert b"\r\nContent-Length: %d\r\n" % len(ASKED) in received
    data = await data_of(here)
    assert (data["usage"], data["reason"]) == ({"tokens": 50}, "ok")
    assert (data["bytes_in"], data["bytes_out"]) == (len(ASK), len(SEEN))
    assert "estimated" not in data
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "kind", [b"application/x-www-form-urlencoded", b"text/plain", b"application/octet-stream"]
)
async def test_I11_json_is_json_whatever_its_content_type_says(here: Stage, kind: bytes) -> None:
    """`curl -d` says that it is a form, and Ollama and llama.cpp read it as JSON."""
    body = ASK[:-1] + b',"max_tokens":77}'
    _, answered = await send(here, body, b"Content-Type: %b\r\n" % kind)
    assert answered == SEEN
    assert b'"include_usage":true' in here.upstream.received
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    here.upstream.received.clear()
    await send(here, body, b"Content-Type: %b\r\n" % kind)
    assert [e["data"]["usage"] for e in await here.events()] == [{"tokens": 50}, {"tokens": 77}]


@pytest.mark.parametrize("size", [1, 2, 3, 60, 1000])
async def test_the_usage_is_hidden_however_the_response_is_cut(here: Stage, size: int) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        here.upstream.answer = in_pieces(STREAM.replace(b"\n", end), size=size)
        assert (await send(here))[1] == SEEN.replace(b"\n", end)


async def test_a_stream_with_a_length_and_a_digest_loses_them(here: Stage) -> None:
    here.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nETag: x\r\n"
        b"Content-Digest: x\r\nContent-Length: %d\r\n\r\n%b" % (len(STREAM), STREAM)
    )
    head, body = await send(here)
    assert body == SEEN
    assert not {b"etag", b"content-digest", b"content-length"} & {
        line.partition(b":")[0].lower() for line in head.split(b"\r\n")
    }


async def test_a_client_of_http_1_0_gets_the_stream_until_the_connection_closes(
    here: Stage,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST /chat HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ASK), ASK)
    )
    async with asyncio.timeout(20):
        answer = await reader.read(-1)
    writer.close()
    assert answer.partition(b"\r\n\r\n")[2] == SEEN
    assert (await data_of(here))["usage"] == {"tokens": 50}


async def test_a_client_that_asks_gets_the_usage_and_its_own_coding(here: Stage) -> None:
    ask = b'{"stream":true,"stream_options":{"include_usage":true}}'
    _, body = await send(here, ask, b"Accept-Encoding: gzip\r\n")
    assert body == STREAM
    received = bytes(here.upstream.received)
    assert ask in received
    assert b"Accept-Encoding: gzip\r\n" in received


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"stream":false}', b""),
        (b'{"max_tokens":1}', b""),
        (b'{"stream":true', b""),
        (b"stream=true", b"Content-Type: application/x-www-form-urlencoded\r\n"),
        (gzip.compress(ASK, mtime=0), b"Content-Encoding: gzip\r\n"),
        (ASK, b"Content-Digest: sha-256=:x:\r\n"),
        (ASK, b"Signature: x\r\n"),
        (b'{"stream":true,"pad":"%b"}' % (b"x" * 262_144), b""),
        (b"", b""),
    ],
    ids=[
        "whole", "unsaid", "broken", "form", "encoded", "digest", "signed", "long", "empty",
    ],
)  # fmt: skip
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
async def test_I6_other_bodies_and_their_responses_stay_as_they_are(
    here: Stage, body: bytes, fields: bytes, sized: bool
) -> None:
    _, answer = await send(here, body, b"Accept-Encoding: gzip\r\n" + fields, sized=sized)
    assert answer == STREAM
    received = bytes(here.upstream.received)
    assert dechunked(received.partition(b"\r\n\r\n")[2]) == body if not sized else True
    assert received.endswith(body) if sized else True
    assert b"\r\nAccept-Encoding: gzip\r\n" in received


async def test_other_routes_ask_nothing(here: Stage) -> None:
    _, answer = await send(here, to="quiet")
    assert answer == STREAM
    assert bytes(here.upstream.received).endswith(ASK)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 x\r\nContent-Type: application/json\r\nContent-Length: 34\r\n\r\n"
        b'{"error":{"message":"no options"}}',
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n'
        b'{"usage": null}',
    ],
)  # fmt: skip
async def test_I6_a_response_that_is_not_a_stream_passes_unchanged(
    here: Stage, answer: bytes
) -> None:
    here.upstream.answer = answer
    head, body = await send(here)
    assert body == answer.partition(b"\r\n\r\n")[2]
    assert b"Content-Length: %d" % len(body) in head


async def test_a_response_that_is_encoded_in_spite_of_that_passes_unchanged_and_is_read(
    here: Stage,
) -> None:
    encoded = gzip.compress(STREAM, mtime=0)
    here.upstream.answer = in_pieces(encoded, b"Content-Encoding: gzip\r\n")
    assert (await send(here))[1] == encoded
    assert (await data_of(here))["usage"] == {"tokens": 50}


async def test_an_upload_that_waits_for_100_is_asked_for(here: Stage) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST /fixed HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\nExpect: 100-continue\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(ASK)
    )
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(ASK)
        answer = await reader.read(-1)
    writer.close()
    assert dechunked(answer.partition(b"\r\n\r\n")[2]) == SEEN
    assert ASKED in here.upstream.received


async def test_I4_a_client_that_leaves_its_upload_is_recorded_once(here: Stage) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST /fixed HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ASK), ASK[:9])
    )
    await writer.drain()
    async with asyncio.timeout(20):
        while not here.app.data_port.connections:
            await asyncio.sleep(0)
        writer.transport.abort()
        while not await here.events():
            await asyncio.sleep(0)
    assert (await data_of(here))["reason"] == "client_gone"
    assert here.upstream.connections == 0


async def test_the_last_event_without_an_end_passes(here: Stage) -> None:
    here.upstream.answer = in_pieces(WORD + USAGE + DONE.rstrip())
    assert (await send(here))[1] == WORD_ALONE + DONE.rstrip()
    here.upstream.answer = in_pieces(WORD + USAGE.rstrip())
    assert (await send(here))[1] == WORD_ALONE
    usage = [e["data"]["usage"] for e in await here.events() if e["type"] == "api.request.v1"]
    assert usage == [{"tokens": 50}] * 2


async def test_the_options_of_the_client_are_kept(here: Stage) -> None:
    ask = b'{"stream":true,"stream_options":{"include_usage":false,"other":[1]}}'
    assert (await send(here, ask))[1] == SEEN
    sent = json.loads(bytes(here.upstream.received).partition(b"\r\n\r\n")[2])
    assert sent["stream_options"] == {"include_usage": True, "other": [1]}


async def test_a_deferred_job_asks_too_and_its_result_does_not_show_it(
    stage: StartStage, tmp_path: Path, valkey_url: str
) -> None:
    plans = tmp_path / "jobs.yaml"
    quota = "{id: q, meter: tokens, quota: 50/month}"
    plans.write_text(PLANS.replace("{id: q, meter: tokens, quota: 1000000000/month}", quota))
    here = await stage(plans=str(plans))
    here.upstream.answer = in_pieces(STREAM)
    head = b""
    while not head.startswith(b"HTTP/1.1 202"):  # all is used once the first one is settled
        head, body = await send(here, fields=b"Prefer: respond-async\r\n")
    with Admin(valkey_url, "qs") as admin:
        pack = Pack("more", "q", "tokens", 1_000, "month")
        assert admin.grant(Account("acme", "pro"), pack, "g1").new
    here.upstream.received.clear()
    job: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while job.get("state") != "done":
            answer = await here.raw(
                b"GET %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n\r\n"
                % json.loads(body)["href"].encode()
            )
            job = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert job["result"]["body"].encode() == SEEN
    assert ASKED in here.upstream.received
    event = [e["data"] for e in await here.events() if e["type"] == "api.request.v1"][-1]
    assert (event["usage"], event["job"]) == ({"tokens": 50}, job["id"])
