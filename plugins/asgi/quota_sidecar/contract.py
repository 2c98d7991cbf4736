"""The documents of the decide port, as plugins/CONTRACT.md describes them. No I/O."""

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_FIELDS: Final = 200
MAX_FIELDS_BYTES: Final = 65_536
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
IDENTITY: Final = frozenset({"x-account-id", "x-plan", "x-key-id", "x-request-id"})
PROBLEM: Final = "application/problem+json"

Fields = list[tuple[str, str]]


class NoDecision(Exception):
    """The sidecar has not decided: no answer, a broken connection, or a status from 500."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The whole response to a refused request."""

    status: int
    headers: Fields
    body: bytes
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """An allowed request. `limit`: the tightest one, with what is left of it; None without one."""

    id: str
    account: str
    key: str
    plan: str
    route: str
    request_class: str
    reason: str
    request_id: str
    limit: str | None = None
    remaining: int | None = None
    reset_s: int | None = None
    request_headers: Fields = field(default_factory=list)
    response_headers: Fields = field(default_factory=list)
    report: frozenset[str] = frozenset()


def malformed() -> Refusal:
    """The refusal of a request that the sidecar cannot check."""
    return _problem(
        400, "https://quota-sidecar.dev/problems/http-400", "Malformed request",
        "The request has a path or header field that cannot be checked, so it was not forwarded.",
        {"action": "correct_request", "what": "Send UTF-8 in all header fields."}, [],
    )  # fmt: skip


def unavailable() -> Refusal:
    """The refusal while the sidecar does not answer."""
    return _problem(
        503, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "The request cannot be checked",
        "The limits of this request cannot be checked right now, so it was not forwarded. "
        "Nothing was charged.", {"action": "wait", "seconds": 1}, [("Retry-After", "1")],
    )  # fmt: skip


def _problem(
    status: int, kind: str, title: str, detail: str, step: dict[str, Any], headers: Fields
) -> Refusal:
    document = {
        "type": kind, "title": title, "status": status, "detail": detail, "how_to_fix": [step],
    }  # fmt: skip
    fields = [("Content-Type", PROBLEM), ("Cache-Control", "no-store"), *headers]
    return Refusal(status, fields, json.dumps(document).encode())


def is_identity(name: str) -> bool:
    """Whether the sidecar sets this field. Some servers read "_" as "-"."""
    return name.lower().replace("_", "-") in IDENTITY


def question(
    method: str,
    path: str,
    fields: Iterable[tuple[str, str]],
    *,
    address: str = "",
    body: str | None = None,
    body_complete: bool = True,
    wait_ms: int = 0,
) -> bytes:
    """The document of POST /v1/decide. Raises ValueError for more than 200 fields."""
    headers: dict[str, list[str]] = {}
    for count, (name, value) in enumerate(fields, 1):
        if count > MAX_FIELDS:
            raise ValueError("too many header fields")
        headers.setdefault(name.lower(), []).append(value)
    document: dict[str, Any] = {
        "method": method, "path": path, "headers": headers, "wait_ms": wait_ms,
        "body_complete": body_complete,
    }  # fmt: skip
    if body is not None:
        document["body"] = body
    if _is_address(address):
        document["address"] = address
    return _encode(document)


def report(decision: Decision, status: int, **members: Any) -> bytes:
    """The document of POST /v1/settle."""
    return _encode({"id": decision.id, "status": status} | members)


def response_fields(fields: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The response's fields for a report: those that the sidecar takes."""
    headers: dict[str, list[str]] = {}
    count = size = 0
    for name, value in fields:
        count, size = count + 1, size + len(name) + 2 * len(value)  # at most, in UTF-8
        if count > MAX_FIELDS or size > MAX_FIELDS_BYTES:
            break
        if not _CONTROL.search(value):
            headers.setdefault(name.lower(), []).append(value)
    return headers


def parse_decision(status: int, body: bytes) -> Decision | Refusal:
    """The answer to POST /v1/decide. Raises NoDecision."""
    if status >= 500:
        raise NoDecision(f"status {status}")
    if status != 200:  # never open: a client could cause it
        return malformed()
    try:
        document = json.loads(body)
        if document["decision"] == "allow":
            return _allowed(document)
        return Refusal(
            int(document["status"]), list(document["headers"].items()), document["body"].encode(),
            document["reason"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoDecision(f"invalid answer: {error!r}") from None


def _allowed(document: Mapping[str, Any]) -> Decision:
    left = document["left"] or {}
    return Decision(
        document["id"], document["account"], document["key"], document["plan"], document["route"],
        document["class"], document["reason"], document["request_id"], left.get("limit"),
        left.get("remaining"), left.get("reset_s"), list(document["request_headers"].items()),
        list(document["response_headers"].items()), frozenset(document.get("report", ())),
    )  # fmt: skip


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _encode(document: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8. Raises ValueError for half of a surrogate pair."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
