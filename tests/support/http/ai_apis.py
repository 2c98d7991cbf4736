"""Responses in the published shapes of AI APIs, whole and streamed, and what they cost."""

import json
from dataclasses import dataclass
from typing import Any

OPENAI_ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": None}}
ANTHROPIC_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
GEMINI_ERROR = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
GEMINI_USAGE = {
    "promptTokenCount": 100, "candidatesTokenCount": 30, "thoughtsTokenCount": 20,
    "cachedContentTokenCount": 40, "totalTokenCount": 150,
}  # fmt: skip
ANTHROPIC_USAGE = {
    "input_tokens": 60, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 40,
    "output_tokens": 50,
}  # fmt: skip
RESPONSES_USAGE = {
    "input_tokens": 100, "input_tokens_details": {"cached_tokens": 40}, "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 150,
}  # fmt: skip
CHAT_USAGE = {
    "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 40},
}  # fmt: skip
OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 100, "eval_count": 50}


@dataclass(frozen=True)
class AiApi:
    """One kind of response. All cost 100 tokens of input, 40 of them cached, and 50 of output.

    `documents`: of a stream, without its end. `words`: the first of them, which have no usage.
    """

    name: str
    target: str
    kind: str
    documents: tuple[Any, ...]
    error: Any
    words: int = 1
    tail: bytes = b""
    cached: int = 40

    def body(self, documents: tuple[Any, ...], *, tail: bool = True) -> bytes:
        """The documents, framed as this API does."""
        texts = [json.dumps(document).encode() for document in documents]
        if self.kind == "text/event-stream":
            return b"".join(b"data: %b\n\n" % t for t in texts) + (self.tail if tail else b"")
        if self.kind == "application/x-ndjson":
            return b"".join(b"%b\n" % text for text in texts)
        if self.words:  # a stream in an array
            return b"[" + b",\n".join(texts) + (b"]" if tail else b"")
        return texts[0]


def _chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}


CHAT_STREAM = (_chunk("a"), _chunk("b"), {"choices": [], "usage": CHAT_USAGE})
RESPONSES_STREAM = (
    {"type": "response.created", "response": {"status": "in_progress", "error": None}},
    {"type": "response.output_text.delta", "delta": "a"},
    {"type": "response.completed", "response": {"error": None, "usage": RESPONSES_USAGE}},
)
ANTHROPIC_STREAM = (
    {"type": "message_start", "message": {"usage": ANTHROPIC_USAGE | {"output_tokens": 1}}},
    {"type": "ping"},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
    {"type": "message_delta", "usage": {"output_tokens": 50}},
    {"type": "message_stop"},
)
_CANDIDATES = {"candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}}]}
GEMINI_STREAM = (_CANDIDATES, _CANDIDATES | {"usageMetadata": GEMINI_USAGE})
OLLAMA_STREAM = ({"message": {"content": "a"}, "done": False}, {"message": {}} | OLLAMA_END)

JSON, SSE, NDJSON = "application/json", "text/event-stream", "application/x-ndjson"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI, OLLAMA = "/v1beta/models/gemini:generateContent", "/api/chat"
DONE = b"data: [DONE]\n\n"
APIS = (
    AiApi("openai chat", CHAT, JSON, ({"choices": [], "usage": CHAT_USAGE},), OPENAI_ERROR, 0),
    AiApi("openai chat stream", CHAT, SSE, CHAT_STREAM, OPENAI_ERROR, 2, DONE),
    AiApi("openai responses", RESPONSES, JSON, ({"error": None, "usage": RESPONSES_USAGE},),
          OPENAI_ERROR, 0),
    AiApi("openai responses stream", RESPONSES, SSE, RESPONSES_STREAM,
          {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, 2),
    AiApi("anthropic", MESSAGES, JSON, ({"type": "message", "usage": ANTHROPIC_USAGE},),
          ANTHROPIC_ERROR, 0),
    AiApi("anthropic stream", MESSAGES, SSE, ANTHROPIC_STREAM, ANTHROPIC_ERROR, 3),
    AiApi("gemini", GEMINI, JSON, (_CANDIDATES | {"usageMetadata": GEMINI_USAGE},),
          GEMINI_ERROR, 0),
    AiApi("gemini stream", GEMINI, SSE, GEMINI_STREAM, GEMINI_ERROR),
    AiApi("gemini array", GEMINI, JSON, GEMINI_STREAM, GEMINI_ERROR),
    AiApi("ollama", OLLAMA, JSON, ({"message": {"content": "a"}} | OLLAMA_END,),
          {"error": "model not found"}, 0, cached=0),
    AiApi("ollama stream", OLLAMA, NDJSON, OLLAMA_STREAM, {"error": "out of memory"}, cached=0),
)  # fmt: skip
EMBEDDINGS = AiApi(
    "openai embeddings", "/v1/embeddings", JSON,
    ({"object": "list", "data": [{"embedding": [0.1] * 99}],
      "usage": {"prompt_tokens": 150, "total_tokens": 150}},),
    OPENAI_ERROR, 0, cached=0,
)  # fmt: skip
_USAGE = {"usage", "usageMetadata", "prompt_eval_count", "eval_count"}


def without_usage(document: Any) -> Any:
    """A document, or several, without the members that report the cost."""
    if isinstance(document, list | tuple):
        return type(document)(without_usage(item) for item in document)
    if not isinstance(document, dict):
        return document
    return {name: without_usage(value) for name, value in document.items() if name not in _USAGE}
