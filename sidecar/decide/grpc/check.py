"""Envoy's external authorization: one question for each request, before Envoy forwards it."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError

from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading
from sidecar.core.reasons import Reason
from sidecar.core.refusals.build import http_problem, simple_refusal
from sidecar.decide.decisions import Decided, Decisions
from sidecar.decide.documents import METHOD, InvalidDocument, is_target
from sidecar.decide.gateway_request import gateway_request
from sidecar.decide.grpc.messages import CheckRequest
from sidecar.decide.grpc.responses import allowed, refused
from sidecar.gate import Refused
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.forwarded import NO_ADDRESS, address_of
from sidecar.proxy.read_ahead import reading_of

_PARTIAL: Final = b"x-envoy-auth-partial-body"  # set by Envoy if it sends a body
# Envoy joins repeated fields with a comma unless it sends raw headers. No credential that the
# sidecar accepts has a comma, so it means two of them, which the gate refuses.
_CREDENTIALS: Final = frozenset({"x-api-key", "authorization"})

# HTTP/2 does not say in fields whether a body comes. Without a length, it may have any size.
_FRAMED_BY_FIELDS: Final = frozenset({"HTTP/1.0", "HTTP/1.1"})
_BODYLESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"})

Fields = list[tuple[bytes, bytes]]


class Checker:
    """Answers the questions of Envoy.

    `most_wait_us`: the longest wait of a decision. `legacy`: also X-RateLimit-* fields.
    """

    def __init__(
        self,
        decisions: Decisions,
        *,
        new_id: Callable[[], str],
        most_wait_us: int,
        legacy: bool = False,
    ) -> None:
        self._decisions = decisions
        self._new_id = new_id
        self._most_wait_us = most_wait_us
        self._legacy = legacy

    async def check(self, data: bytes, *, settles: bool) -> bytes:
        """Return the response to a CheckRequest. Raises InvalidDocument.

        `settles`: Envoy reports the end of the request to the access log service. If the call is
        cancelled, a request in a wait queue leaves it; any other is decided, and then settled
        without a report.
        """
        started = time.perf_counter()
        attributes = _attributes(data)
        http = attributes.request.http
        request = self._request(attributes, http)
        invalid = self._invalid(request)
        if invalid is None:
            task = asyncio.ensure_future(self._decide(request, http, started, settles=settles))
            try:
                decided = await asyncio.shield(task)
            except asyncio.CancelledError:
                if request.waiting:
                    task.cancel()
                raise
        else:
            decided = Decided("", None, invalid)
        if decided.admission is not None:
            return allowed(decided.id, decided.admission, legacy=self._legacy)
        assert decided.refused is not None  # noqa: S101 - a decision has one of the two
        in_grpc = request.content_type.startswith(b"application/grpc")
        return refused(decided.refused, request.accept, in_grpc=in_grpc, legacy=self._legacy)

    def _request(self, attributes: Any, http: Any) -> Request:
        request = gateway_request(
            http.method,
            http.path.encode(),
            _fields(http),
            _address(attributes.source.address.socket_address.address),
            most_wait_us=self._most_wait_us,
        )
        if request.content_length is None and http.method not in _BODYLESS:
            framed = http.protocol in _FRAMED_BY_FIELDS
            request.chunked = not framed or bool(_values(request, b"transfer-encoding"))
        return request

    def _invalid(self, request: Request) -> Refused | None:
        """The refusal of a request line that HTTP/2 can carry, and no route can match."""
        if METHOD.fullmatch(request.method) and is_target(request.target):
            return None
        request_id = self._new_id()
        if METHOD.fullmatch(request.method):
            return Refused(request_id, simple_refusal(Reason.BAD_TARGET, request_id))
        detail = "The method is not one in capital letters, like GET."
        return Refused(request_id, http_problem(400, "Invalid method", detail, request_id))

    async def _decide(
        self, request: Request, http: Any, started: float, *, settles: bool
    ) -> Decided:
        body = http.raw_body or http.body.encode()
        complete = not request.has_body
        if body:
            request.body_bytes = len(body)
            complete = set(_values(request, _PARTIAL)) == {b"false"}  # a client may send it, too
            if complete:
                request.content_length, request.chunked = len(body), False
        read = partial(_read, request, body, complete)
        return await self._decisions.decide(request, read, started, settles=settles)


def _values(request: Request, name: bytes) -> list[bytes]:
    return [line.partition(b":")[2].strip() for field, line in request.fields if field == name]


async def _read(request: Request, body: bytes, complete: bool, entitlement: Entitlement) -> Reading:
    """What the request says of its costs."""
    return reading_of(request, entitlement, body, complete=complete)


def _attributes(data: bytes) -> Any:
    try:
        attributes = CheckRequest.FromString(data).attributes
    except DecodeError:
        raise InvalidDocument("", "the message is not a CheckRequest") from None
    if not attributes.request.http.method:
        raise InvalidDocument("attributes.request.http.method", "is missing")
    return attributes


def _fields(http: Any) -> Fields:
    """The header fields (name, value) without those of HTTP/2 itself."""
    raw = http.header_map.headers
    if raw:
        return [
            (one.key.lower().encode(), one.raw_value or one.value.encode())
            for one in raw
            if not one.key.startswith(":")
        ]
    fields: Fields = []
    for one in http.headers:
        name, value = one.key.lower(), one.value
        if name in _CREDENTIALS and "," in value:
            fields.extend([(name.encode(), part.strip().encode()) for part in value.split(",")])
        elif not name.startswith(":"):
            fields.append((name.encode(), value.encode()))
    return fields


def _address(text: str) -> str:
    """The client's address, as Envoy's listener sees it; "unknown" for a unix socket."""
    return address_of(text.encode()) if text else NO_ADDRESS
