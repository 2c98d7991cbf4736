"""The bill of each AI API by examples/ai.yaml: whole or streamed, whole or not, with usage or not.

What is known is billed. Else the events of a stream count as tokens, and the prompt by its size.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.ai_apis import APIS, EMBEDDINGS, AiApi, without_usage
from tests.support.http.held_api import HeldApi, held
from tests.support.processes import until
from tests.support.stage import Stage, StartStage

PLANS = Path(__file__).parents[2] / "examples" / "ai.yaml"
EVERY = [*APIS, EMBEDDINGS]
STREAMS = [api for api in APIS if api.words]
FIXED = 500  # the estimate of embeddings
PROMPT = 100  # bytes


def named(apis: Sequence[AiApi]) -> Any:
    return pytest.mark.parametrize("api", apis, ids=lambda api: api.name.replace(" ", "-"))


def ask_of(tokens: int) -> bytes:
    """A request for so many tokens. Its client asks for the usage, so that nothing is hidden."""
    ask = b'{"max_tokens":%d,"stream":true,"stream_options":{"include_usage":true},"p":"' % tokens
    return ask + b"x" * (PROMPT - len(ask) - 2) + b'"}'


def head(api: AiApi) -> bytes:
    kind = api.kind.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def post(here: Stage, api: AiApi, ask: bytes, *, leave_after: bytes | None = None) -> None:
    """Send a request and read its response up to the end, or to these bytes and then leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (api.target.encode(), len(ask), ask)
    )
    async with asyncio.timeout(20):
        try:
            if leave_after is None:
                await reader.read(-1)
            else:
                await reader.readuntil(leave_after)
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except ConnectionError:
            pass
    writer.close()


async def bill(here: Stage) -> tuple[int, Any, str]:
    """Tokens, why they are estimated, and the outcome of the only request."""
    async with asyncio.timeout(20):
        while True:
            found = [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]
            if found:
                break
            await asyncio.sleep(0)
    [data] = found
    return data["usage"]["tokens"], data.get("estimated", {}).get("tokens"), data["reason"]


async def billed(
    stage: StartStage, api: AiApi, body: bytes, *, complete: bool = True, tokens: int = 8_000
) -> tuple[int, Any, str]:
    here = await stage(plans=str(PLANS))
    here.upstream.answer = head(api) + chunk(body)
    if complete:
        here.upstream.answer += b"0\r\n\r\n"
        await post(here, api, ask_of(tokens))
    else:
        async with held(here.upstream.answer, b"") as cut:
            here = await stage(plans=str(PLANS), upstream=f"http://127.0.0.1:{cut.port}")
            asking = asyncio.ensure_future(post(here, api, ask_of(tokens)))
            await until(lambda: cut.asked)
            cut.writers[0].close()  # what was written is sent, and no last chunk
            await asking
    return await bill(here)


def estimate(api: AiApi, tokens: int) -> int:
    return FIXED if api is EMBEDDINGS else tokens + PROMPT // 4


@named(EVERY)
async def test_a_whole_response_costs_its_usage(stage: StartStage, api: AiApi) -> None:
    assert await billed(stage, api, api.body(api.documents)) == (150, None, "ok")


@pytest.mark.parametrize("tokens", [1, 8_000])
@named(EVERY)
async def test_I11_a_whole_response_without_usage_costs_its_events_or_the_estimate(
    stage: StartStage, api: AiApi, tokens: int
) -> None:
    words = without_usage(api.documents[:1]) * 30 if api.words else ()
    documents = (*words, *without_usage(api.documents))
    output = max(tokens, len(documents)) if api.words else tokens
    expected = (estimate(api, output), "missing", "ok")
    assert await billed(stage, api, api.body(documents), tokens=tokens) == expected


@named(EVERY)
async def test_a_response_that_the_api_breaks_off_costs_the_usage_that_it_had(
    stage: StartStage, api: AiApi
) -> None:
    body = api.body(api.documents, tail=False)
    assert await billed(stage, api, body, complete=False) == (150, None, "upstream_broken")


@named(EVERY)
async def test_a_response_that_the_api_breaks_off_without_usage_costs_its_events(
    stage: StartStage, api: AiApi
) -> None:
    documents = without_usage(api.documents[: max(1, api.words)]) * 30
    body = api.body(documents, tail=False) if api.words else api.body(documents[:1])[:-9]
    expected = (len(documents) if api.words else 0, "truncated", "upstream_broken")
    assert await billed(stage, api, body, complete=False) == expected


@named(EVERY)
async def test_a_response_that_fails_costs_nothing(stage: StartStage, api: AiApi) -> None:
    body = api.body((*without_usage(api.documents[: api.words]), api.error))
    assert await billed(stage, api, body) == (0, None, "upstream_error")


@named(STREAMS)
async def test_I11_a_client_that_leaves_pays_the_usage(stage: StartStage, api: AiApi) -> None:
    tokens, why, reason = await left(stage, api, api.documents)
    assert (tokens, why, reason) == (150, None, "client_gone")


@pytest.mark.parametrize("asked", [1, 8_000])
@named(STREAMS)
async def test_I11_a_client_that_leaves_a_stream_without_usage_pays_its_events(
    stage: StartStage, api: AiApi, asked: int
) -> None:
    words = without_usage(api.documents[:1]) * 30
    documents = (*words, *without_usage(api.documents))
    tokens, why, reason = await left(stage, api, documents, asked=asked)
    assert tokens == max(asked, len(documents)) + PROMPT // 4
    assert (why, reason) == ("missing", "client_gone")


async def left(
    stage: StartStage, api: AiApi, documents: tuple[Any, ...], asked: int = 8_000
) -> tuple[int, Any, str]:
    """The bill of a client that leaves after the words."""
    body = api.body(documents)
    first = api.body(documents[: api.words], tail=False)
    assert body.startswith(first)
    async with held(head(api) + chunk(first), chunk(body[len(first) :]) + b"0\r\n\r\n") as answers:
        here = await stage(plans=str(PLANS), upstream=f"http://127.0.0.1:{answers.port}")
        await _leave(here, api, answers, first, asked)
        return await bill(here)


async def _leave(here: Stage, api: AiApi, answers: HeldApi, first: bytes, asked: int) -> None:
    await post(here, api, ask_of(asked), leave_after=first)
    await until(lambda: here.app.data_port.unfinished)
    answers.left.set()
