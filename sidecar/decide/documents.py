"""The JSON documents that gateways send: parsed strictly, with errors that name the member."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from sidecar.core.kinds import UNBOUNDED
from sidecar.core.settlement import OutcomeReason
from sidecar.decide.report import NOT_SENT, Report
from sidecar.proxy.forwarded import NO_ADDRESS, address_of

MAX_TARGET: Final = 8_192  # bytes of a path with its query
MAX_NAME: Final = 256
MAX_FIELDS: Final = 200  # header fields, counted by value
MAX_FIELDS_BYTES: Final = 65_536
MAX_ADDRESS: Final = 64  # characters
MAX_METERS: Final = 64
MAX_WAIT_MS: Final = 3_600_000
MAX_MS: Final = 10**9  # of a latency
METHOD: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE: Final = re.compile(r"[\t -~\x80-\U0010ffff]*")
_TARGET: Final = re.compile(rb"/[!-\"$-~\x80-\xff]*|\*")
_ID: Final = re.compile(r"[0-9a-f-]{36}\.[0-9]{1,3}")
_REPORTED: Final = frozenset(set(OutcomeReason) - {OutcomeReason.UNSETTLED})

FieldList = list[tuple[bytes, bytes]]


class InvalidDocument(Exception):
    """A document with a wrong member. `member`: its name, "" for the document itself."""

    def __init__(self, member: str, problem: str) -> None:
        self.member = member
        self.problem = problem
        super().__init__(f"{member}: {problem}" if member else problem)


class Question(NamedTuple):
    """What a gateway asks: may this request pass?"""

    method: str
    target: bytes
    fields: FieldList
    address: str
    body: bytes | None
    body_complete: bool
    settles: bool
    wait_ms: int | None  # the longest wait; None: as long as the sidecar's settings allow


def parse_question(data: bytes) -> Question:
    """Parse the document of POST /v1/decide. Raises InvalidDocument."""
    members = _members(data, _DECIDE)
    method, path = members.get("method"), members.get("path")
    if method is None or path is None:
        raise InvalidDocument("method" if method is None else "path", "is missing")
    if not METHOD.fullmatch(method):
        raise InvalidDocument("method", "is not an HTTP method in capital letters, like GET")
    target = path.encode()
    if not is_target(target):
        raise InvalidDocument(
            "path", f"is not a path with its query, like /v1/items?x=1, of at most {MAX_TARGET} "
            "bytes",
        )  # fmt: skip
    body = members.get("body")
    return Question(
        method,
        target,
        _fields(members.get("headers", {})),
        _address(members.get("address", NO_ADDRESS)),
        None if body is None else body.encode(),
        members.get("body_complete", True),
        members.get("settle", True),
        members.get("wait_ms"),
    )


def is_target(target: bytes) -> bool:
    """Whether this is a path with its query, as in a request line."""
    return len(target) <= MAX_TARGET and _TARGET.fullmatch(target) is not None


def parse_report(data: bytes) -> tuple[str, Report]:
    """Parse the document of POST /v1/settle: a decision's id and the report.

    Raises InvalidDocument.
    """
    members = _members(data, _SETTLE)
    decision_id, status = members.get("id"), members.get("status")
    if decision_id is None or status is None:
        raise InvalidDocument("id" if decision_id is None else "status", "is missing")
    if not _ID.fullmatch(decision_id):
        raise InvalidDocument("id", "is not the id of a decision")
    if not 100 <= status <= 599:
        raise InvalidDocument("status", "is not an HTTP status, from 100 to 599")
    reason = members.get("outcome", "client_gone" if status == NOT_SENT else "ok")
    if reason not in _REPORTED:
        raise InvalidDocument("outcome", f"is not one of {', '.join(sorted(_REPORTED))}")
    body = members.get("body")
    lines = [(name, b"%b: %b" % (name, value)) for name, value in _fields(
        members.get("headers", {}))]  # fmt: skip
    return decision_id, Report(
        status,
        OutcomeReason(reason),
        members.get("latency_ms", 0),
        members.get("bytes_in", 0),
        members.get("bytes_out", 0),
        members.get("begun", status != NOT_SENT),
        _usage(members.get("usage", {})),
        lines,
        None if body is None else body.encode(),
        members.get("body_complete", True),
    )


def _members(data: bytes, known: Mapping[str, Callable[[Any], str]]) -> dict[str, Any]:
    """The members of a JSON object, all of which are known and have the right type."""
    try:
        document = orjson.loads(data)
    except ValueError:
        raise InvalidDocument("", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise InvalidDocument("", "the body is not a JSON object")
    for name, value in document.items():
        check = known.get(name)
        if check is None:
            raise InvalidDocument(name[:MAX_NAME], "is not known here")
        problem = check(value)
        if problem:
            raise InvalidDocument(name, problem)
    return document


def _fields(headers: dict[str, Any]) -> FieldList:
    """The header fields of a mapping from a name to a value or to a list of values."""
    fields: FieldList = []
    size = 0
    for name, given in headers.items():
        where = f"headers.{name[:MAX_NAME]}"
        if not _TOKEN.fullmatch(name):
            raise InvalidDocument(where, "is not the name of a header field")
        for value in given if isinstance(given, list) else [given]:
            if not isinstance(value, str):
                raise InvalidDocument(where, "must be a string, or a list of strings")
            if not _VALUE.fullmatch(value):
                raise InvalidDocument(where, "has a control character")
            encoded = value.encode()
            fields.append((name.lower().encode(), encoded.strip(b" \t")))
            size += len(name) + len(encoded)
    if len(fields) > MAX_FIELDS or size > MAX_FIELDS_BYTES:
        raise InvalidDocument(
            "headers", f"has more than {MAX_FIELDS} fields, or {MAX_FIELDS_BYTES} bytes"
        )
    return fields


def _address(text: str) -> str:
    """An IP address in its usual form, or NO_ADDRESS."""
    if text == NO_ADDRESS:
        return text
    address = _usual(text) if len(text) <= MAX_ADDRESS else NO_ADDRESS
    if address == NO_ADDRESS:
        raise InvalidDocument("address", "is not an IP address")
    return address


def _parse(text: str) -> str:
    return address_of(text.encode())


_usual: Final = lru_cache(maxsize=4096)(_parse)


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    if len(usage) > MAX_METERS:
        raise InvalidDocument("usage", f"has more than {MAX_METERS} meters")
    for meter, units in usage.items():
        if type(units) is not int or not 0 <= units <= UNBOUNDED:
            raise InvalidDocument(
                f"usage.{meter[:MAX_NAME]}", f"must be a whole number from 0 to {UNBOUNDED}"
            )
    return usage


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "must be a string"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be an object"


def _number(most: int) -> Callable[[Any], str]:
    problem = f"must be a whole number from 0 to {most}"

    def check(value: Any) -> str:
        return "" if type(value) is int and 0 <= value <= most else problem

    return check


_DECIDE: Final[Mapping[str, Callable[[Any], str]]] = {
    "method": _text,
    "path": _text,
    "headers": _mapping,
    "address": _text,
    "body": _text,
    "body_complete": _flag,
    "settle": _flag,
    "wait_ms": _number(MAX_WAIT_MS),
}
_SETTLE: Final[Mapping[str, Callable[[Any], str]]] = {
    "id": _text,
    "status": _number(599),
    "outcome": _text,
    "latency_ms": _number(MAX_MS),
    "bytes_in": _number(UNBOUNDED),
    "bytes_out": _number(UNBOUNDED),
    "begun": _flag,
    "usage": _mapping,
    "headers": _mapping,
    "body": _text,
    "body_complete": _flag,
}
