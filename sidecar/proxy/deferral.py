"""`202 Accepted`: a call that does not fit now becomes a job, and its account may ask about it.

Which calls: those that limits refuse, on a deferrable route or with `Prefer: respond-async`
(RFC 7240, section 4.1), of a key. What cannot be kept is refused as if nobody had asked.
"""

import re
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.identity import AmbiguousCredential, credential, fingerprint
from sidecar.core.jobs.deferral import (
    LONGEST_KEY,
    fits_later,
    kept_fields,
    may_run_later,
    once_name,
    once_of,
)
from sidecar.core.jobs.document import job_document, result_document
from sidecar.core.jobs.eta import eta_us
from sidecar.core.jobs.job import Accepted, JobCall, JobState, JobStatus, NotAccepted, Once
from sidecar.core.jobs.prefer import wants_async
from sidecar.core.model import MICRO, Entitlement, Key
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, http_problem, simple_refusal
from sidecar.core.refusals.problems import Fields
from sidecar.errors import StoreUnavailable
from sidecar.gate import Deferred, Gate, Refused
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.read_ahead import read_ahead
from sidecar.proxy.responses import LocalReply

_JOB: Final = re.compile(rb"jobs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


class JobDesk(Protocol):
    """What `waiting.jobs.Jobs` offers. Raises StoreUnavailable."""

    async def accept(
        self, key: Key, digest: bytes, call: JobCall, once: Once | None, look_in_us: int
    ) -> Accepted | NotAccepted: ...
    async def known(self, key: Key, name: str) -> tuple[str, str] | None: ...
    async def find(self, key: Key, job_id: str) -> JobStatus | None: ...
    async def cancel(self, key: Key, job_id: str) -> JobState | None: ...


class Deferral:
    """The account's own side of jobs, in HTTP."""

    def __init__(self, gate: Gate, jobs: JobDesk, *, prefix: bytes, max_body: int) -> None:
        self._gate = gate
        self._jobs = jobs
        self._prefix = prefix
        self._max_body = max_body

    # 202

    def may(self, request: Request, found: Entitlement, decision: Decision) -> bool:
        """Whether a call that is refused by this decision is to be deferred."""
        return (
            fits_later(decision)
            and self._asked(request, found)
            and (request.content_length or 0) <= self._max_body
            and _digest(request) is not None
        )

    @staticmethod
    def _asked(request: Request, found: Entitlement) -> bool:
        asked = wants_async(request.prefer)
        return may_run_later(found, asked=asked) and not request.upgrade

    async def known(
        self, request: Request, connection: ClientConnection
    ) -> "Same | Refused | None":
        """The job that the request's Idempotency-Key stands for; None: it stands for none, and
        the call goes its way. Raises BodyBroken."""
        if _once_value(request) is None or _digest(request) is None:
            return None
        key = await self._gate.identify(request)
        if isinstance(key, Refused):
            return key
        found = self._gate.entitlement_of(request, key)
        if found is None or not self._asked(request, found):
            return None
        try:
            known = await self._jobs.known(key, once_name(key.id, _once_value(request) or b""))
        except StoreUnavailable:
            return None  # whoever asks next will say so
        if known is None:
            return None
        job_id, told = known
        call = await self._call_of(request, connection)
        once = _once(key, request, call) if call is not None else None
        if once is None or once.print != told:
            return Same(key, found, None)
        return Same(key, found, job_id)

    async def defer(
        self, request: Request, connection: ClientConnection, deferred: Deferred
    ) -> LocalReply | Refusal:
        """Queue the call: the 202, or the refusal that it gets after all. Raises BodyBroken."""
        digest = _digest(request)
        call = await self._call_of(request, connection)
        key = deferred.key
        if call is None or digest is None:
            return deferred.refusal
        once = _once(key, request, call)
        try:
            retry_us = deferred.decision.retry_us or 0
            said = await self._jobs.accept(key, digest, call, once, retry_us)
            if isinstance(said, Accepted):
                return await self.accepted(request, deferred, said.job_id, deferred.refusal.headers)
        except StoreUnavailable:
            return simple_refusal(Reason.STORE_UNAVAILABLE, deferred.request_id)
        if said is NotAccepted.OTHER_CALL:
            return simple_refusal(Reason.OTHER_CALL, deferred.request_id)
        return _full(deferred, everyone=said is NotAccepted.ALL_FULL)

    async def accepted(
        self, request: Request, deferred: Deferred, job_id: str, fields: Fields = ()
    ) -> LocalReply:
        """202 for a job that is queued. Raises StoreUnavailable."""
        key, href = deferred.key, self._href(job_id)
        document: dict[str, Any] = {"id": job_id, "href": href}
        found = await self._jobs.find(key, job_id)
        more: list[tuple[bytes, bytes]] = [(b"Location", href.encode())]
        if found is not None:
            eta, now_us = await self._eta(key, found)
            document = job_document(found.job, href, found.position, eta)
            if eta is not None and found.job.state is JobState.WAITING:
                more.append((b"Retry-After", b"%d" % max(1, -(-(eta - now_us) // MICRO))))
        if wants_async(request.prefer):
            more.append((b"Preference-Applied", b"respond-async"))
        return LocalReply(
            deferred.request_id,
            202,
            Reason.DEFERRED,
            document,
            (*more, *fields),
            key,
            deferred.entitlement,
        )

    async def _call_of(self, request: Request, connection: ClientConnection) -> JobCall | None:
        """The call as it is kept, once its body is there; None: the body is too large."""
        body, whole = await read_ahead(request, connection, self._max_body)
        if not whole or len(body) > self._max_body:
            return None
        return JobCall(
            method=request.method,
            target=request.target,
            host=request.host[0] if request.host else b"",
            address=request.address,
            fields=kept_fields(request.fields),
            body=body,
            content_type=request.content_type,
            content_encoding=request.content_encoding,
        )

    # /-/jobs/{id}

    def job_named(self, target: bytes) -> str | None:
        """The id of the job that a target asks about; None: it asks about something else."""
        path = target.removeprefix(self._prefix).partition(b"?")[0]
        match = _JOB.fullmatch(path)
        return match[1].decode() if match else None

    async def answer(
        self, request: Request, job_id: str, request_id: str
    ) -> LocalReply | Refused | Refusal:
        """To a request for a job's own address. Raises nothing."""
        key = await self._gate.identify(request)
        if isinstance(key, Refused):
            return key
        try:
            if request.method in ("GET", "HEAD"):
                return await self._show(key, job_id, request_id)
            if request.method == "DELETE":
                return await self._cancel(key, job_id, request_id)
        except StoreUnavailable:
            return simple_refusal(Reason.STORE_UNAVAILABLE, request_id)
        why = "A job is looked at with GET and cancelled with DELETE."
        return http_problem(405, "Method not allowed", why, request_id)

    async def _show(self, key: Key, job_id: str, request_id: str) -> LocalReply | Refusal:
        found = await self._jobs.find(key, job_id)
        if found is None:
            return _no_job(request_id)
        eta, _ = await self._eta(key, found)
        document = job_document(found.job, self._href(job_id), found.position, eta)
        if found.job.result is not None:
            document["result"] = result_document(found.job.result)
        return LocalReply(request_id, 200, "http-200", document)

    async def _cancel(self, key: Key, job_id: str, request_id: str) -> LocalReply | Refusal:
        state = await self._jobs.cancel(key, job_id)
        if state is None:
            return _no_job(request_id)
        if state is not JobState.CANCELLED:
            is_now = "runs" if state is JobState.RUNNING else f"is {state}"
            why = f"The job {is_now}, so it cannot be cancelled any more."
            return http_problem(409, "Too late to cancel", why, request_id)
        return await self._show(key, job_id, request_id)

    async def _eta(self, key: Key, found: JobStatus) -> tuple[int | None, int]:
        """When a job that waits may run, and what time it is; (None, 0): nobody can tell."""
        if found.job.state is not JobState.WAITING:
            return None, 0
        request = Request("")
        request.method, request.target = found.job.method, found.job.target
        entitlement = self._gate.entitlement_of(request, key)
        answer = await self._gate.outlook(key, entitlement) if entitlement is not None else None
        if entitlement is None or answer is None:
            return None, 0
        return eta_us(entitlement.claims, answer, found.position - 1), answer.now_us

    def _href(self, job_id: str) -> str:
        return f"{self._prefix.decode()}jobs/{job_id}"


class Same(NamedTuple):
    """Whose Idempotency-Key was sent before, and the job that it stands for; None: the key was
    sent for another call."""

    key: Key
    entitlement: Entitlement
    job_id: str | None


Known = Same | Refused


def _digest(request: Request) -> bytes | None:
    """The fingerprint of the caller's key; None for a caller without one."""
    try:
        secret = credential(request.api_keys, request.authorizations)
    except AmbiguousCredential:
        return None
    return fingerprint(secret) if secret is not None else None


def _once_value(request: Request) -> bytes | None:
    """The one Idempotency-Key; several, or one that is too long, are nobody's."""
    values = request.idempotency_keys
    return values[0] if len(values) == 1 and 0 < len(values[0]) <= LONGEST_KEY else None


def _once(key: Key, request: Request, call: JobCall) -> Once | None:
    value = _once_value(request)
    return once_of(key.id, value, call) if value is not None else None


def _no_job(request_id: str) -> Refusal:
    why = "This account has no such job, or it ended too long ago."
    return http_problem(404, "No such job", why, request_id)


def _full(deferred: Deferred, *, everyone: bool) -> Refusal:
    """429 that names the queue, and tells the limit's own retry time."""
    of = "of all accounts" if everyone else f"of account {deferred.key.account.id}"
    why = f"This call does not fit into the plan's limits now, and as many jobs {of} wait as may."
    refusal = simple_refusal(Reason.QUEUE_FULL, deferred.request_id, why)
    limits = deferred.refusal
    steps = [*_steps(refusal), *_steps(limits)]
    problem = {**limits.problem, **refusal.problem, "how_to_fix": steps}
    return Refusal(429, Reason.QUEUE_FULL, problem, limits.retry_after_s, limits.headers)


def _steps(refusal: Refusal) -> list[object]:
    steps = refusal.problem["how_to_fix"]
    return steps if isinstance(steps, list) else []
