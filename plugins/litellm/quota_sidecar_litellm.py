"""Plans and limits of Quota Sidecar in the LiteLLM proxy: a callback.

It asks before a request goes to a model, and settles its tokens and its cost, also of streams.
"""

import asyncio
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from quota_sidecar import Decision, NoDecision, Options, Refusal
from quota_sidecar.async_client import LoopClients
from quota_sidecar.contract import malformed, question, report, unavailable
from quota_sidecar.options import SOCKET

log = logging.getLogger("quota_sidecar")

MOST_OPEN: Final = 10_000  # requests that are remembered until they are reported
MARK: Final = "quota_sidecar_decision"  # in the request's metadata
_METADATA: Final = ("litellm_metadata", "metadata")


class _Open:
    """An allowed request."""

    __slots__ = ("decision", "settled", "started")

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.settled = False
        self.started = time.monotonic()


class QuotaCallback(CustomLogger):  # type: ignore[misc]
    """Asks in the pre-call hook; reports when LiteLLM logs the request, or gives it up.

    Meters: `tokens`, `input_tokens`, `output_tokens`, and `micro_usd` with LiteLLM's cost in
    millionths of a dollar, rounded up. The sidecar takes those that settle on the route.
    """

    def __init__(self, options: Options | None = None) -> None:
        super().__init__()
        self._options = options or Options()
        self._clients = LoopClients(self._options)
        self._open: OrderedDict[str, _Open] = OrderedDict()

    # before the request

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Ask. Raises the refusal as an HTTPException."""
        del user_api_key_dict, cache, call_type
        for name in _METADATA:  # a client may send the mark
            if isinstance(data.get(name), dict):
                data[name].pop(MARK, None)
        path = urlsplit(str(data.get("proxy_server_request", {}).get("url", "/"))).path
        try:
            answer: Decision | Refusal | None = await self._decide(data)
        except NoDecision as error:
            log.error("no decision: %s", error)
            answer = None if self._options.is_open(path) else unavailable()
        if isinstance(answer, Refusal):
            raise _exception_of(answer)
        if answer is not None:
            self._remember(data, answer)
        return data

    async def _decide(self, data: dict[str, Any]) -> Decision | Refusal:
        request = data.get("proxy_server_request", {})
        fields: Mapping[str, str] = (data.get("secret_fields") or {}).get("raw_headers") or {}
        url = urlsplit(str(request.get("url", "/")))
        path = f"{url.path}?{url.query}" if url.query else url.path
        body = json.dumps(request.get("body"), default=str)
        complete = len(body) <= self._options.read_body
        try:
            document = question(
                request.get("method", "POST"), path, fields.items(),
                address=(data.get("metadata") or {}).get("requester_ip_address") or "",
                body=body if complete else None, body_complete=complete,
                wait_ms=self._options.wait_ms,
            )  # fmt: skip
        except ValueError:
            return malformed()
        return await self._clients.get().decide(document)

    def _remember(self, data: dict[str, Any], decision: Decision) -> None:
        if len(self._open) >= MOST_OPEN:
            self._open.popitem(last=False)  # the sidecar settles it by its own rule
        self._open[decision.id] = _Open(decision)
        name = next((one for one in _METADATA if isinstance(data.get(one), dict)), "metadata")
        data.setdefault(name, {})[MARK] = decision.id

    # after it

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Settle with the tokens and the cost; LiteLLM calls it once, at the end of a stream."""
        del start_time, end_time
        usage = _usage_of(response_obj) | _cost_of(kwargs.get("response_cost"))
        self._settle(_mark_of(kwargs.get("litellm_params") or {}), 200, "ok", usage)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Settle a request that failed on all models."""
        del user_api_key_dict, traceback_str
        given = getattr(original_exception, "status_code", None)
        status = given if isinstance(given, int) and 400 <= given <= 599 else 500
        outcome = "upstream_timeout" if status == 408 else "ok"
        self._settle(_mark_of(request_data), 504 if status == 408 else status, outcome, {})

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Settle a stream whose client left: the estimate stays."""
        del user_api_key_dict
        try:
            async for item in response:
                yield item
        except (GeneratorExit, asyncio.CancelledError):
            self._settle(_mark_of(request_data), 200, "client_gone", {})
            raise

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        """RateLimit and the other fields that the client gets."""
        del user_api_key_dict, response, request_headers, litellm_call_info
        found = self._open.get(_mark_of(data))
        return dict(found.decision.response_headers) if found is not None else None

    def _settle(self, mark: str, status: int, outcome: str, usage: dict[str, int]) -> None:
        found = self._open.get(mark)
        if found is None or found.settled:
            return
        found.settled = True  # it stays until it is the oldest, for its response fields
        latency_ms = int((time.monotonic() - found.started) * 1000)
        members: dict[str, Any] = {"outcome": outcome, "latency_ms": latency_ms}
        if usage:
            members["usage"] = usage
        self._clients.get().settle(report(found.decision, status, **members))


def _mark_of(data: Mapping[str, Any]) -> str:
    """The id of the decision in the metadata of a request; empty without one."""
    for name in _METADATA:
        metadata = data.get(name)
        if isinstance(metadata, Mapping) and isinstance(metadata.get(MARK), str):
            return str(metadata[MARK])
    return ""


def _usage_of(response: Any) -> dict[str, int]:
    """The tokens of a response, by meter."""
    usage = getattr(response, "usage", None)
    found = {}
    for meter, names in {
        "tokens": ("total_tokens",),
        "input_tokens": ("prompt_tokens", "input_tokens"),
        "output_tokens": ("completion_tokens", "output_tokens"),
    }.items():
        counts = [getattr(usage, name, None) for name in names]
        known = [one for one in counts if isinstance(one, int) and one >= 0]
        if known:
            found[meter] = known[0]
    return found


def _cost_of(dollars: float | None) -> dict[str, int]:
    """LiteLLM's cost in millionths of a dollar, rounded up; nothing if it knows none."""
    if not dollars or dollars < 0:
        return {}
    micro = (Decimal(str(dollars)) * 1_000_000).to_integral_value(ROUND_CEILING)
    return {"micro_usd": int(micro)}


def _exception_of(refusal: Refusal) -> HTTPException:
    """LiteLLM puts the detail into OpenAI's form of an error, and keeps the header fields."""
    headers = {
        name: value for name, value in refusal.headers if name.lower() != "content-type"
    }  # fmt: skip
    try:
        problem = json.loads(refusal.body)
        detail: Any = {"error": problem["detail"], **problem}
    except ValueError:  # the client prefers text
        detail = refusal.body.decode()
    return HTTPException(refusal.status, detail, headers)


def _from_environment() -> QuotaCallback:
    """The callback for `litellm_settings.callbacks`, which takes no options."""
    environment = os.environ
    critical = _list_of(environment.get("QUOTA_SIDECAR_CRITICAL", ""))
    return QuotaCallback(
        Options(
            address=environment.get("QUOTA_SIDECAR_DECIDE", SOCKET),
            token=environment.get("QUOTA_SIDECAR_TOKEN", ""),
            timeout_s=float(environment.get("QUOTA_SIDECAR_TIMEOUT_S", "1")),
            open=environment.get("QUOTA_SIDECAR_OPEN", "") == "true",
            critical=critical,
        )
    )


def _list_of(text: str) -> list[str]:
    """The paths of a list with commas."""
    return [one.strip() for one in text.split(",") if one.strip()]


quota = _from_environment()
