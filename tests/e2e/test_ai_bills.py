"""examples/ai.yaml bills each AI API right: whole, failed, and of any size."""

import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.ai_apis import APIS, EMBEDDINGS, AiApi
from tests.support.stage import Stage, StartStage, status

PLANS = Path(__file__).parents[2] / "examples" / "ai.yaml"
ASK = b'{"max_tokens":8000}'
METERS = """
version: 1
meters:
  input:
    unit: token
    settle:
      json:
        - usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens
        - response.usage.input_tokens - response.usage.input_tokens_details.cached_tokens
        - usage.input_tokens|message.usage.input_tokens - usage.input_tokens_details.cached_tokens
        - usageMetadata.promptTokenCount - usageMetadata.cachedContentTokenCount
        - prompt_eval_count
  cached:
    unit: token
    settle:
      json:
        - usage.prompt_tokens_details.cached_tokens
        - response.usage.input_tokens_details.cached_tokens
        - usage.input_tokens_details.cached_tokens
        - usage.cache_read_input_tokens|message.usage.cache_read_input_tokens
        - usageMetadata.cachedContentTokenCount
      missing: 0
  output:
    unit: token
    reserve: {json: max_tokens, default: 100}
    settle:
      json:
        - usage.completion_tokens
        - response.usage.output_tokens
        - usage.output_tokens
        - usageMetadata.candidatesTokenCount + usageMetadata.thoughtsTokenCount
        - eval_count
routes: [{id: rest, match: "/**", cost: {input: 1, cached: 0, output: reserve}}]
plans: {pro: {limits: [{id: output, meter: output, quota: 1000000/month}]}}
accounts:
  - id: acme
    plan: pro
    keys: [{id: k1, sha256: 1fbfd5e2a34698deb796eb78add256a067ec065519b8329b1eb85f5e2ef906d4}]
"""
Ask = Callable[..., Awaitable[dict[str, Any]]]


async def billed(here: Stage, api: AiApi, body: bytes, code: int = 200) -> dict[str, Any]:
    """The data of the event of one request that gets this response."""
    here.upstream.answer = b"HTTP/1.1 %d x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        code,
        api.kind.encode(),
        len(body),
        body,
    )
    answer = await here.raw(
        b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (api.target.encode(), len(ASK), ASK)
    )
    assert status(answer) == code
    assert answer.endswith(body)
    return (await here.events())[-1]["data"]  # type: ignore[no-any-return]


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    return await stage(plans=str(PLANS))


async def test_each_api_is_billed_by_one_meter(here: Stage) -> None:
    for api in (*APIS, EMBEDDINGS):
        data = await billed(here, api, api.body(api.documents))
        assert data["usage"]["tokens"] == 150, api.name
        assert "estimated" not in data, api.name


async def test_each_api_is_billed_by_input_cached_and_output(
    stage: StartStage, tmp_path: Path
) -> None:
    plans = tmp_path / "meters.yaml"
    plans.write_text(METERS)
    here = await stage(plans=str(plans))
    for api in APIS:
        data = await billed(here, api, api.body(api.documents))
        expected = {"input": 100 - api.cached, "cached": api.cached, "output": 50}
        assert data["usage"] == expected, api.name
        assert "estimated" not in data, api.name


@pytest.mark.parametrize("code", [400, 401, 429, 500, 529], ids=lambda code: f"ai-charged-{code}")
async def test_a_refused_request_costs_no_tokens(here: Stage, code: int) -> None:
    for api in APIS:
        if not api.words:
            data = await billed(here, api, api.body((api.error,)), code)
            assert data["usage"]["tokens"] == 0, api.name
            assert "estimated" not in data, api.name


async def test_an_error_in_a_successful_response_costs_no_tokens(here: Stage) -> None:
    """ai-charged-error-event, for every API."""
    for api in APIS:
        words = api.documents[: api.words]
        data = await billed(here, api, api.body((*words, api.error)))
        assert (data["usage"]["tokens"], data["reason"]) == (0, "upstream_error"), api.name


async def test_usage_after_an_error_counts(here: Stage) -> None:
    api = next(api for api in APIS if api.name == "openai chat stream")
    data = await billed(here, api, api.body((api.error, *api.documents)))
    assert (data["usage"]["tokens"], data["reason"]) == (150, "upstream_error")


@pytest.mark.parametrize("size", [1_100_000, 4_000_000])
async def test_a_response_of_any_size_is_billed(here: Stage, size: int) -> None:
    """ai-embeddings-over-1mib and ai-sse-event-over-1mib, for every API."""
    for api in APIS:
        large = tuple({"data": "A" * size} | document for document in api.documents[-1:])
        data = await billed(here, api, api.body((*api.documents[:-1], *large)))
        assert data["usage"]["tokens"] == 150, api.name


@pytest.mark.parametrize(
    ("ratio", "tokens", "why"), [("64", 8_005, {"tokens": "too_large"}), ("2000", 150, None)]
)
async def test_a_response_that_decodes_to_far_more_is_estimated_and_counted(
    stage: StartStage, ratio: str, tokens: int, why: dict[str, str] | None
) -> None:
    here = await stage(plans=str(PLANS), decompression_ratio=ratio)
    body = gzip.compress(b'{"pad":"%b","usage":{"total_tokens":150}}' % (b"0" * 8_000_000))
    api = AiApi("chat", APIS[0].target, "application/json\r\nContent-Encoding: gzip", (), {}, 0)
    data = await billed(here, api, body)
    assert (data["usage"]["tokens"], data.get("estimated")) == (tokens, why)
    expected = {} if why is None else {("tokens", "too_large"): 1}
    assert here.app.metrics.costs_estimated == expected


async def test_images_are_billed_by_their_number(here: Stage) -> None:
    api = AiApi("images", "/v1/images/generations", "application/json", (), {}, 0)
    data = await billed(here, api, b'{"created": 1, "data": [{"url": "a"}, {"url": "b"}]}')
    assert data["usage"]["images"] == 2
    data = await billed(here, api, b'{"error": {"code": "moderation_blocked"}}', 400)
    assert data["usage"]["images"] == 0
