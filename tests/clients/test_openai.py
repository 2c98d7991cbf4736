"""The openai package through the sidecar, priced by tokens as in examples/ai.yaml."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.http.asgi_api import PATIENCE_S, served
from tests.support.http.completion_api import CompletionApi
from tests.support.http.raw_ends import calls, empty
from tests.support.processes import until
from tests.support.stage import Stage, StartStage

PLANS = Path(__file__).parents[2] / "examples" / "ai.yaml"
ASKED: dict[str, Any] = {"model": "stand-in", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = ASKED | {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def completions() -> Iterator[CompletionApi]:
    api = CompletionApi()
    with served(api.app) as (api.url, api.loop):
        yield api


@pytest.fixture
async def here(stage: StartStage, completions: CompletionApi) -> Stage:
    return await stage(upstream=completions.url, plans=str(PLANS), half_close_timeout_s="0.3")


def a_client(here: Stage, key: str) -> openai.AsyncOpenAI:
    base = f"http://127.0.0.1:{here.app.data_port.port}/v1"
    return openai.AsyncOpenAI(api_key=key, base_url=base, max_retries=0, timeout=PATIENCE_S)


@pytest.fixture
async def pro(here: Stage) -> AsyncIterator[openai.AsyncOpenAI]:
    async with a_client(here, "demo-pro-key") as client:
        yield client


@pytest.fixture
async def free(here: Stage) -> AsyncIterator[openai.AsyncOpenAI]:
    async with a_client(here, "demo-free-key") as client:
        yield client


async def test_a_completion_is_billed_by_its_reported_tokens(
    pro: openai.AsyncOpenAI, here: Stage
) -> None:
    answer = await pro.chat.completions.create(**ASKED, max_tokens=1000)
    assert answer.choices[0].message.content == "whole"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 350
    (event,) = await calls(here)
    assert (event["route"], event["usage"]) == ("chat", {"requests": 1, "tokens": 350})


async def test_each_event_of_a_stream_arrives_before_the_next_is_sent(
    pro: openai.AsyncOpenAI, here: Stage, completions: CompletionApi
) -> None:
    completions.say("The")
    stream = await pro.chat.completions.create(**STREAM)
    for word, following in (("The", " answer"), (" answer", " is 42"), (" is 42", None)):
        assert (await anext(stream)).choices[0].delta.content == word
        completions.say(following)
    end, usage = [chunk async for chunk in stream]
    assert end.choices[0].finish_reason == "stop"
    assert usage.usage.total_tokens == 350
    await until(lambda: settled(here))
    (event,) = await calls(here)
    assert (event["reason"], event["usage"]) == ("ok", {"requests": 1, "tokens": 350})


def settled(here: Stage) -> bool:
    return here.app.data_port._pool.size == here.app.data_port._pool.idle


async def test_I11_a_stream_is_billed_by_its_usage_if_the_client_does_not_ask_for_it(
    pro: openai.AsyncOpenAI, here: Stage, completions: CompletionApi
) -> None:
    completions.say("word")
    completions.say(None)
    stream = await pro.chat.completions.create(**ASKED, stream=True, max_tokens=1)
    chunks = [chunk async for chunk in stream]
    assert [len(chunk.choices) for chunk in chunks] == [1, 1]
    assert [chunk.usage for chunk in chunks] == [None, None]
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    await until(lambda: settled(here))
    (event,) = await calls(here)
    assert event["usage"] == {"requests": 1, "tokens": 350}
    assert completions.asked[0]["stream_options"] == {"include_usage": True}


async def test_a_client_that_closes_cancels_the_completion(
    stage: StartStage, completions: CompletionApi
) -> None:
    """Where responses are not read on for their usage."""
    here = await stage(upstream=completions.url, plans=str(PLANS), usage_timeout_s="0")
    completions.say("word")
    async with a_client(here, "demo-pro-key") as client:
        stream = await client.chat.completions.create(**STREAM, max_tokens=500)
        await anext(stream)
        await stream.close()
    await until(lambda: completions.left)
    await empty(here)
    (event,) = await calls(here)
    tokens = 500 + -(-event["bytes_in"] // 4)
    assert (event["reason"], event["usage"]) == ("client_gone", {"requests": 1, "tokens": tokens})


async def test_I10_used_up_tokens_are_an_explained_rate_limit_error(
    free: openai.AsyncOpenAI, here: Stage, completions: CompletionApi
) -> None:
    completions.usage = {"prompt_tokens": 8_000, "completion_tokens": 1_000, "total_tokens": 9_000}
    await free.chat.completions.create(**ASKED, max_tokens=9_000)
    with pytest.raises(openai.RateLimitError) as refused:
        await free.chat.completions.create(**ASKED, max_tokens=9_000)
    document: Any = refused.value.body
    assert (document["status"], document["violated-policies"]) == (429, ["tokens-per-minute"])
    assert "fred" in document["detail"]
    assert {fix["action"] for fix in document["how_to_fix"]} >= {"wait", "upgrade"}
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 120
    assert len(completions.asked) == len(await calls(here)) == 1


async def test_I10_a_missing_feature_is_a_permission_error_that_names_a_plan_with_it(
    free: openai.AsyncOpenAI, here: Stage
) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await free.images.generate(prompt="a cat")
    document: Any = refused.value.body
    assert document["status"] == 403
    assert "pro" in document["detail"]
    assert await calls(here) == []


async def test_I10_an_unknown_key_is_an_authentication_error(here: Stage) -> None:
    async with a_client(here, "sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(**ASKED)
    document: Any = refused.value.body
    assert (document["status"], bool(document["how_to_fix"])) == (401, True)
    assert "sk-wrong" not in refused.value.response.text
