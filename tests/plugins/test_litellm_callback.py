"""plugins/litellm without LiteLLM: a stand-in for its base class, as LiteLLM publishes it.

test_litellm.py runs the real proxy, where it is installed.
"""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from quota_sidecar import Options

from tests.decide.conftest import StartDecide, decide
from tests.support.decide_stage import requests
from tests.support.stage import Stage, stage
from tests.support.vectors import PLUGINS

__all__ = ["decide", "stage"]
PLANS = (PLUGINS / "litellm" / "plans.yaml").read_text()


@pytest.fixture
def callbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The callback's module, with a stand-in for litellm.integrations.custom_logger."""
    names = ("litellm", "litellm.integrations", "litellm.integrations.custom_logger")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[names[-1]], "CustomLogger", object, raising=False)
    monkeypatch.delitem(sys.modules, "quota_sidecar_litellm", raising=False)
    yield importlib.import_module("quota_sidecar_litellm")
    monkeypatch.delitem(sys.modules, "quota_sidecar_litellm", raising=False)


def request(most: int = 100, **metadata: str) -> dict[str, Any]:
    """The data of a pre-call hook."""
    return {
        "model": "small", "metadata": metadata,
        "secret_fields": {"raw_headers": {"authorization": "Bearer secret"}},
        "proxy_server_request": {
            "url": "http://127.0.0.1:4000/v1/chat/completions", "method": "POST",
            "body": {"model": "small", "max_tokens": most},
        },
    }  # fmt: skip


def response(tokens: int) -> Any:
    usage = SimpleNamespace(total_tokens=tokens, prompt_tokens=3, completion_tokens=tokens - 3)
    return SimpleNamespace(usage=usage)


class Asking:
    """The callback at a real sidecar."""

    def __init__(self, here: Stage, callback: Any) -> None:
        self.here, self.callback = here, callback

    async def before(self, data: dict[str, Any]) -> dict[str, Any]:
        return await self.callback.async_pre_call_hook(None, None, data, "acompletion")

    async def success(self, data: dict[str, Any], tokens: int, cost: float | None = None) -> None:
        kwargs = {"litellm_params": {"metadata": data["metadata"]}, "response_cost": cost}
        await self.callback.async_log_success_event(kwargs, response(tokens), None, None)

    async def event(self) -> dict[str, Any]:
        await self.callback._clients.close()
        return (await requests(self.here))[-1]["data"]


@pytest.fixture
async def asking(decide: StartDecide, callbacks: Any) -> AsyncIterator[Asking]:
    here, gateway = await decide()
    here.plans.write_text(PLANS)
    assert await here.app.keeper.reload(), here.app.keeper.status()
    found = Asking(here, callbacks.QuotaCallback(Options(address=f"unix:{gateway.path}")))
    yield found
    await found.callback._clients.close()


async def test_with_a_stand_in_for_litellm_tokens_settle_once(asking: Asking) -> None:
    data = await asking.before(request())
    await asking.success(data, 7, 0.0000015)
    await asking.success(data, 900)
    assert (await asking.event())["usage"] == {"requests": 1, "tokens": 7}
    assert len(await requests(asking.here)) == 1
    hook = asking.callback.async_post_call_response_headers_hook
    assert "RateLimit" in await hook(data, None, response(7))


async def test_with_a_stand_in_for_litellm_a_refusal_is_openais_error(asking: Asking) -> None:
    with pytest.raises(HTTPException) as raised:
        await asking.before(request(2000))
    refused = raised.value
    assert refused.status_code == 429
    assert refused.headers is not None and "RateLimit" in refused.headers
    assert refused.detail["error"] == refused.detail["detail"]
    assert not await requests(asking.here)


async def test_with_a_stand_in_for_litellm_a_client_cannot_send_the_mark(asking: Asking) -> None:
    """Otherwise it could settle the request of another client."""
    first = await asking.before(request())
    mark = first["metadata"]["quota_sidecar_decision"]
    second = await asking.before(request(quota_sidecar_decision=mark))
    assert second["metadata"]["quota_sidecar_decision"] != mark
    await asking.success(second, 5)
    assert (await asking.event())["usage"]["tokens"] == 5


@pytest.mark.parametrize(
    ("status", "recorded", "reason"),
    [(400, 400, "ok"), (408, 504, "upstream_timeout"), (None, 500, "ok")],
)
async def test_with_a_stand_in_for_litellm_failures_are_reported(
    asking: Asking, status: int | None, recorded: int, reason: str
) -> None:
    data = await asking.before(request())
    error = RuntimeError("of the model")
    error.status_code = status  # type: ignore[attr-defined]
    await asking.callback.async_post_call_failure_hook(data, error, None)
    event = await asking.event()
    assert (event["status"], event["reason"]) == (recorded, reason)


async def test_with_a_stand_in_for_litellm_a_client_leaves_a_stream(asking: Asking) -> None:
    data = await asking.before(request(60))

    async def chunks() -> AsyncIterator[str]:
        yield "hel"
        await asyncio.Event().wait()

    stream = asking.callback.async_post_call_streaming_iterator_hook(None, chunks(), data)
    assert await anext(stream) == "hel"
    await stream.aclose()
    event = await asking.event()
    assert (event["reason"], event["usage"]["tokens"]) == ("client_gone", 60)


async def test_with_a_stand_in_for_litellm_and_without_the_sidecar(
    callbacks: Any, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/none.sock"
    with pytest.raises(HTTPException) as raised:
        closed = callbacks.QuotaCallback(Options(address=address))
        await closed.async_pre_call_hook(None, None, request(), "acompletion")
    assert raised.value.status_code == 503
    opens = callbacks.QuotaCallback(Options(address=address, critical=["/v1/chat/*"]))
    data = await opens.async_pre_call_hook(None, None, request(), "acompletion")
    await opens.async_log_success_event({"litellm_params": data}, response(7), None, None)


def test_a_cost_is_millionths_of_a_dollar_rounded_up(callbacks: Any) -> None:
    assert callbacks._cost_of(0.0000015) == {"micro_usd": 2}
    assert callbacks._cost_of(0.3) == {"micro_usd": 300_000}
    assert callbacks._cost_of(None) == {}
