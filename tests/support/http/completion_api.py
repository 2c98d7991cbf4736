"""A completion API with OpenAI's wire format, whose chunks the test controls."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

USAGE = {"prompt_tokens": 300, "completion_tokens": 50, "total_tokens": 350}
COMMON = {"id": "c1", "created": 1, "model": "stand-in"}


class CompletionApi:
    """Responses have `usage`. A stream sends the words of `say`, up to None."""

    def __init__(self) -> None:
        self.url = ""
        self.loop: asyncio.AbstractEventLoop  # the app's
        self.usage: dict[str, int] = USAGE
        self.left = 0  # streams whose reader has left
        self.asked: list[dict[str, Any]] = []
        self._words: asyncio.Queue[str | None] = asyncio.Queue()
        completions = Route("/v1/chat/completions", self._complete, methods=["POST"])
        self.app = Starlette(routes=[completions])

    def say(self, word: str | None) -> None:
        """Send the next word of the stream; None ends it with the usage and `[DONE]`."""
        self.loop.call_soon_threadsafe(self._words.put_nowait, word)

    async def _complete(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        if asked.get("stream"):
            with_usage = bool(asked.get("stream_options", {}).get("include_usage"))
            return StreamingResponse(self._events(with_usage), media_type="text/event-stream")
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "whole"},
        }
        whole = {"object": "chat.completion", "choices": [choice], "usage": self.usage}
        return JSONResponse(COMMON | whole)

    async def _events(self, usage_told: bool) -> AsyncIterator[str]:
        try:
            while (word := await self._words.get()) is not None:
                yield _event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        except asyncio.CancelledError:
            self.left += 1
            raise
        yield _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if usage_told:
            yield _event([], self.usage)
        yield "data: [DONE]\n\n"


def _event(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
    chunk = COMMON | {"object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return f"data: {json.dumps(chunk)}\n\n"
