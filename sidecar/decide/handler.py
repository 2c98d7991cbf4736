"""The decide port's HTTP: questions and reports of gateways, and the answers to them."""

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading
from sidecar.core.reasons import Reason
from sidecar.decide.answers import (
    REFUSAL,
    carried_refusal,
    decision_document,
    port_problem,
    refusal_body,
    refusal_fields,
    request_fields,
    response_fields,
    settlement_document,
)
from sidecar.decide.callers import Callers
from sidecar.decide.carried import CarriedRefusal, parse_refusal
from sidecar.decide.decisions import Decided, Decisions
from sidecar.decide.documents import InvalidDocument, parse_question, parse_report
from sidecar.decide.forward_auth import original_request
from sidecar.decide.gateway_request import gateway_request
from sidecar.decide.peers import Peers, PeerUnavailable
from sidecar.logs import logger
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.read_ahead import BodyBroken, needs_body, read_ahead, reading_of
from sidecar.proxy.responses import PHRASES, LocalReply

log = logger("decide")

_CONTRACT: Final = "plugins/CONTRACT.md lists the members and fields of this address."
_JSON: Final = b"application/json"
_Answer = Coroutine[Any, Any, bool]


class DecideHandler:
    """Serves the requests of gateways. A connection has one request served at a time.

    `trusts`: whether an address is that of a proxy before the gateway. `most_wait_us`: the longest
    wait of a decision. `max_body`: bytes of a document. `legacy`: also X-RateLimit-* fields.
    `peers`: the other workers; None with one worker, or if the other workers ask.
    """

    def __init__(
        self,
        decisions: Decisions,
        callers: Callers,
        *,
        new_id: Callable[[], str],
        trusts: Callable[[str], bool],
        most_wait_us: int,
        max_body: int,
        legacy: bool = False,
        peers: Peers | None = None,
    ) -> None:
        self._decisions = decisions
        self._callers = callers
        self._new_id = new_id
        self._trusts = trusts
        self._most_wait_us = most_wait_us
        self._max_body = max_body
        self._legacy = legacy
        self._peers = peers
        self._addresses: dict[bytes, Callable[[Request, ClientConnection], _Answer]] = {
            b"/v1/decide": self._decide,
            b"/v1/settle": self._settle,
            b"/v1/forward-auth": self._forward_auth,
            b"/v1/auth-request": self._auth_request,
            b"/v1/refusal": self._refusal,
        }

    async def handle(self, request: Request, connection: ClientConnection) -> bool:
        """Serve a request. Returns whether the connection can serve another."""
        if not self._callers.trusts(request.fields):
            return self._problem(
                request, connection, 401, "Unknown gateway",
                "X-Decide-Token: is missing or not one of the tokens of this port.",
                "Send a token of --decide-token-file as X-Decide-Token.", "X-Decide-Token",
            )  # fmt: skip
        serve = self._addresses.get(request.target.partition(b"?")[0])
        if serve is None:
            return self._problem(
                request, connection, 404, "Nothing here",
                "The decide port does not serve this path.", "plugins/CONTRACT.md lists the paths.",
            )  # fmt: skip
        try:
            return await serve(request, connection)
        except InvalidDocument as error:
            problem = f"{error.member}: {error.problem}." if error.member else f"{error.problem}."
            return self._problem(
                request, connection, 400, "Invalid request of a gateway", problem, _CONTRACT,
                error.member,
            )  # fmt: skip
        except BodyBroken:
            return False  # the connection replies with its fault

    # JSON

    async def _decide(self, request: Request, connection: ClientConnection) -> bool:
        started = time.perf_counter()
        if request.method != "POST":
            return self._post_only(request, connection)
        question = parse_question(await self._document(request, connection))
        wait_us, wait_ms = self._most_wait_us, question.wait_ms
        if wait_ms is not None:
            wait_us = min(wait_us, wait_ms * 1000)
        asked = gateway_request(
            question.method, question.target, question.fields, question.address,
            most_wait_us=wait_us,
        )  # fmt: skip
        body, complete = question.body or b"", question.body is not None and question.body_complete
        if question.body is not None:
            asked.body_bytes = len(body)
            if question.body_complete or not asked.content_length:
                asked.content_length = len(body)

        read = partial(_read_document, asked, body, complete or not asked.has_body)
        request.waiting = wait_us > 0  # if the gateway leaves, the request leaves the wait queue
        try:
            decided = await self._decisions.decide(asked, read, started, settles=question.settles)
        finally:
            request.waiting = False
        if _is_undecided(decided):
            return self._draining(request, connection)
        document = decision_document(decided, asked.accept, legacy=self._legacy)
        return self._answer(request, connection, document)

    async def _settle(self, request: Request, connection: ClientConnection) -> bool:
        if request.method != "POST":
            return self._post_only(request, connection)
        document = await self._document(request, connection)
        decision_id, report = parse_report(document)
        worker, decisions = int(decision_id.rpartition(".")[2]), self._decisions
        if worker != decisions.worker and self._peers is not None:
            answer = None
            try:
                answer = await self._peers.settle(worker, document)
            except PeerUnavailable as error:
                log.warning("peer_unavailable", error=str(error))
                return self._problem(
                    request, connection, 503, "Not settled yet",
                    "The worker that decided does not answer now.", "Send the same report again.",
                )  # fmt: skip
            if answer is not None:
                return self._write(request, connection, answer)
        elif worker == decisions.worker:
            settled = await decisions.settle(decision_id, report)
            if settled is not None:
                return self._answer(request, connection, settlement_document(decision_id, settled))
        return self._problem(
            request, connection, 404, "Unknown decision",
            "id: is not that of an open decision. It may have been settled without a report, or "
            "its sidecar has ended.",
            "Send the report sooner, or raise --decide-settle-timeout-s.", "id",
        )  # fmt: skip

    async def _document(self, request: Request, connection: ClientConnection) -> bytes:
        """The whole body. Raises BodyBroken."""
        body, complete = await read_ahead(request, connection, self._max_body)
        if not complete:
            raise InvalidDocument("", f"the body is longer than {self._max_body} bytes")
        return body

    def _post_only(self, request: Request, connection: ClientConnection) -> bool:
        return self._problem(
            request, connection, 405, "Method not allowed",
            "This address takes POST only.", "Send POST.", fields=((b"Allow", b"POST"),),
        )  # fmt: skip

    # forward auth

    async def _forward_auth(self, request: Request, connection: ClientConnection) -> bool:
        """200 with fields to add, or the whole refusal."""
        decided = await self._decide_plain(request, connection)
        refused = decided.refused
        if refused is None:
            return self._allow(request, connection, decided)
        if _is_undecided(decided):
            return self._draining(request, connection)
        kind, body = refusal_body(refused.refusal, request.accept)
        fields = [(b"Content-Type", kind), *refusal_fields(refused, legacy=self._legacy)]
        return self._respond(request, connection, refused.refusal.status, fields, body)

    async def _auth_request(self, request: Request, connection: ClientConnection) -> bool:
        """200 with fields to add, or 403 with the whole refusal in one field."""
        decided = await self._decide_plain(request, connection)
        if decided.refused is None:
            return self._allow(request, connection, decided)
        if _is_undecided(decided):
            return self._draining(request, connection)
        carried = carried_refusal(decided.refused, request.accept, legacy=self._legacy)
        return self._respond(request, connection, 403, [(REFUSAL, carried)])

    async def _decide_plain(self, request: Request, connection: ClientConnection) -> Decided:
        started = time.perf_counter()
        asked = original_request(request, self._trusts, self._most_wait_us)

        read = partial(_read_forwarded, asked, request, connection)
        request.waiting = self._most_wait_us > 0
        try:
            return await self._decisions.decide(asked, read, started, settles=False)
        finally:
            request.waiting = False

    async def _refusal(self, request: Request, connection: ClientConnection) -> bool:
        """The response that a gateway carried in one field: it dropped the body of the refusal."""
        refusal: CarriedRefusal = parse_refusal(request.fields)
        return self._respond(request, connection, refusal.status, refusal.fields, refusal.body)

    def _allow(self, request: Request, connection: ClientConnection, decided: Decided) -> bool:
        admission = decided.admission
        if admission is None:
            return False
        fields = request_fields(admission)
        fields += response_fields(admission, legacy=self._legacy)[1:]  # one X-Request-Id
        return self._respond(request, connection, 200, fields)

    # responses

    def _answer(self, request: Request, connection: ClientConnection, document: bytes) -> bool:
        return self._respond(request, connection, 200, [(b"Content-Type", _JSON)], document)

    def _respond(
        self,
        request: Request,
        connection: ClientConnection,
        status: int,
        fields: list[tuple[bytes, bytes]],
        body: bytes = b"",
    ) -> bool:
        head = b"HTTP/1.1 %d %b\r\nContent-Length: %d\r\n%b" % (
            status,
            PHRASES[status],
            len(body),
            b"".join([b"%b: %b\r\n" % field for field in fields]),
        )
        if request.method == "HEAD":
            body = b""
        keep = _discard_rest(request, connection)
        end = b"\r\n" if keep else b"Connection: close\r\n\r\n"
        request.begun = request.answered = True
        connection.write(head + end + body)
        return keep

    def _write(self, request: Request, connection: ClientConnection, response: bytes) -> bool:
        """Write the whole response of another worker."""
        keep = _discard_rest(request, connection) and b"\r\nConnection: close\r\n" not in response
        request.begun = request.answered = True
        connection.write(response)
        return keep

    def _problem(
        self,
        request: Request,
        connection: ClientConnection,
        status: int,
        title: str,
        detail: str,
        step: str,
        member: str = "",
        fields: tuple[tuple[bytes, bytes], ...] = (),
    ) -> bool:
        reply = port_problem(self._new_id(), status, title, detail, step, member)
        keep = _discard_rest(request, connection)
        connection.reply(reply._replace(fields=reply.fields + fields), request, close=not keep)
        return keep

    def _draining(self, request: Request, connection: ClientConnection) -> bool:
        """No decision: the gateway follows its own rule for failures, also for critical paths."""
        return self._problem(
            request, connection, 503, "Shutting down",
            "This sidecar is shutting down, and decides no more.", "Ask another sidecar.",
        )  # fmt: skip

    def answer_fault(
        self, fault: Fault, request: Request | None, connection: ClientConnection
    ) -> None:
        """Reply to an invalid message; `request` is what could be parsed of it."""
        request = request or Request("")
        request.close = True
        reply = port_problem(self._new_id(), fault.status, fault.title, fault.detail, _CONTRACT)
        fields = reply.fields + fault.fields
        connection.reply(reply._replace(fields=fields), request, close=True)

    def handle_error(
        self, error: Exception, request: Request | None, connection: ClientConnection
    ) -> None:
        """Log an internal error, and reply with 500 unless a response has begun."""
        request_id = self._new_id()
        log.error("decision_failed", request_id=request_id, exc_info=error)
        if request is None or request.answered:
            return
        request.close = True
        reply: LocalReply = port_problem(
            request_id, 500, "Internal error", "An internal error occurred.", "Ask again."
        )
        connection.reply(reply, request, close=True)


def _is_undecided(decided: Decided) -> bool:
    refused = decided.refused
    return refused is not None and refused.refusal.reason is Reason.DRAINING


async def _read_document(
    asked: Request, body: bytes, complete: bool, entitlement: Entitlement
) -> Reading:
    """What the body in a question says of the costs of the request."""
    return reading_of(asked, entitlement, body, complete=complete)


async def _read_forwarded(
    asked: Request, request: Request, connection: ClientConnection, entitlement: Entitlement
) -> Reading:
    """The same for a body that the gateway forwards. Raises BodyBroken."""
    body, complete = b"", not asked.has_body
    if request.has_body and needs_body(asked, entitlement):
        body, complete = await read_ahead(request, connection, entitlement.read_up_to)
        asked.body_bytes = request.body_bytes
    return reading_of(asked, entitlement, body, complete=complete)


def _discard_rest(request: Request, connection: ClientConnection) -> bool:
    """Drop the body. Returns whether the connection can serve another request."""
    keep = request.complete and not (request.close or connection.closing)
    request.discard()
    return keep
