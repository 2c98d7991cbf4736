"""`202 Accepted`: turns a request that does not fit now into a job, and serves `/-/jobs/{id}`.

A request is deferred if limits refuse it, it has an API key, and its route is deferrable or it has
`Prefer: respond-async` (RFC 7240, section 4.1). A request that cannot be stored is refused.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sidecar.core.identity import AmbiguousCredential, credential, key_digest
from sidecar.core.jobs.deferral import (
    MAX_KEY_BYTES,
    fits_later,
    idempotency_digest,
    idempotency_key,
    may_run_later,
    stored_fields,
)
from sidecar.core.jobs.document import job_document, result_document
from sidecar.core.jobs.eta import eta_us
from sidecar.core.jobs.job import (
    AcceptedJob,
    Delivery,
    Job,
    JobOutcome,
    JobRefusal,
    JobRequest,
    JobState,
    JobStatus,
)
from sidecar.core.jobs.prefer import wants_async
from sidecar.core.model import MICRO, Entitlement, Key
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, http_problem, simple_refusal
from sidecar.core.refusals.problems import Fields
from sidecar.errors import StoreUnavailable
from sidecar.gate import Deferred, Gate, Refused
from sidecar.ports import JobStore
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.read_ahead import read_ahead
from sidecar.proxy.responses import LocalReply

_ALLOW: Final = ((b"Allow", b"GET, HEAD, DELETE"),)
_JOB: Final = re.compile(rb"jobs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_CANCELLED: Final = JobOutcome(JobState.CANCELLED, JobState.CANCELLED)


class ExistingJob(NamedTuple):
    """The job that an earlier request with the same Idempotency-Key has created.

    `job_id`: None if that request was a different one.
    """

    key: Key
    entitlement: Entitlement
    job_id: str | None


class Deferral:
    """HTTP interface of jobs for their account.

    `counted` counts accepted and cancelled jobs; `on_accepted` is called after each new job.
    """

    def __init__(
        self,
        gate: Gate,
        store: JobStore,
        *,
        prefix: bytes,
        max_body: int,
        delivery: Delivery,
        new_id: Callable[[], str],
        counted: Counter[str],
        on_accepted: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._store = store
        self._prefix = prefix
        self._max_body = max_body
        self._delivery: Delivery = delivery
        self._new_id = new_id
        self._counted = counted
        self._on_accepted = on_accepted

    # 202

    def is_deferrable(self, request: Request, entitlement: Entitlement, decision: Decision) -> bool:
        """Whether a request that this decision refuses becomes a job."""
        return (
            fits_later(decision)
            and self._may_run_later(request, entitlement)
            and (request.content_length or 0) <= self._max_body
            and _digest(request) is not None
        )

    @staticmethod
    def _may_run_later(request: Request, entitlement: Entitlement) -> bool:
        asked = wants_async(request.prefer)
        return may_run_later(entitlement, asked=asked) and not request.upgrade

    async def find_existing(
        self, request: Request, connection: ClientConnection
    ) -> ExistingJob | Refused | None:
        """Return the job of the request's Idempotency-Key; None if it has no job.

        Raises BodyBroken if the body cannot be read.
        """
        value = _key_value(request)
        if value is None or _digest(request) is None:
            return None
        key = await self._gate.identify(request)
        if isinstance(key, Refused):
            return key
        entitlement = self._gate.entitlement_of(request, key)
        if entitlement is None or not self._may_run_later(request, entitlement):
            return None
        try:
            digest = idempotency_digest(key.id, value)
            existing = await self._store.find_by_key(key.account.id, digest)
        except StoreUnavailable:
            return None  # the reservation reports it
        if existing is None:
            return None
        job_id, request_digest = existing
        stored = await self._stored(request, connection)
        if (
            stored is None
            or idempotency_key(key.id, value, stored).request_digest != request_digest
        ):
            return ExistingJob(key, entitlement, None)
        return ExistingJob(key, entitlement, job_id)

    async def defer(
        self, request: Request, connection: ClientConnection, deferred: Deferred
    ) -> LocalReply | Refusal:
        """Queue a job, and return the 202 or a refusal. Raises BodyBroken."""
        digest = _digest(request)
        stored = await self._stored(request, connection)
        if stored is None or digest is None:
            return deferred.refusal
        try:
            accepted = await self._accept(request, stored, digest, deferred)
            if isinstance(accepted, AcceptedJob):
                fields = deferred.refusal.headers
                return await self.accepted(request, deferred, accepted.job_id, fields)
        except StoreUnavailable:
            return simple_refusal(Reason.STORE_UNAVAILABLE, deferred.request_id)
        if accepted is JobRefusal.OTHER_REQUEST:
            return simple_refusal(Reason.OTHER_CALL, deferred.request_id)
        return _queue_full(deferred, all_accounts=accepted is JobRefusal.ALL_FULL)

    async def _accept(
        self, request: Request, stored: JobRequest, digest: bytes, deferred: Deferred
    ) -> AcceptedJob | JobRefusal:
        key, value = deferred.key, _key_value(request)
        job = Job(
            id=self._new_id(),
            account=key.account.id,
            key=key.id,
            digest=digest,
            delivery=self._delivery,
            method=stored.method,
            target=stored.target,
            request=stored,
        )
        accepted = await self._store.add(
            job,
            idempotency_key(key.id, value, stored) if value is not None else None,
            due_in_us=deferred.decision.retry_us or 0,
        )
        if isinstance(accepted, AcceptedJob) and not accepted.existing:
            self._counted["accepted"] += 1
            self._on_accepted()
        return accepted

    async def accepted(
        self, request: Request, deferred: Deferred, job_id: str, fields: Fields = ()
    ) -> LocalReply:
        """Return the 202 of a queued job. Raises StoreUnavailable."""
        key, href = deferred.key, self._href(job_id)
        document: dict[str, Any] = {"id": job_id, "href": href}
        status = await self._store.find(key.account.id, job_id)
        more: list[tuple[bytes, bytes]] = [(b"Location", href.encode())]
        if status is not None:
            eta, now_us = await self._eta(key, status)
            document = job_document(status.job, href, status.position, eta)
            if eta is not None and status.job.state is JobState.WAITING:
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

    async def _stored(self, request: Request, connection: ClientConnection) -> JobRequest | None:
        """Return the request as a job stores it; None if the body is too large."""
        body, whole = await read_ahead(request, connection, self._max_body)
        if not whole or len(body) > self._max_body:
            return None
        return JobRequest(
            method=request.method,
            target=request.target,
            host=request.host[0] if request.host else b"",
            address=request.address,
            fields=stored_fields(request.fields),
            body=body,
            content_type=request.content_type,
            content_encoding=request.content_encoding,
        )

    # /-/jobs/{id}

    def job_id_of(self, target: bytes) -> str | None:
        """Return the job ID in a request target; None for any other target."""
        path = target.removeprefix(self._prefix).partition(b"?")[0]
        match = _JOB.fullmatch(path)
        return match[1].decode() if match else None

    async def answer(
        self, request: Request, job_id: str, request_id: str
    ) -> LocalReply | Refused | Refusal:
        """Return the answer to a request for `/-/jobs/{id}`."""
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
        detail = "Use GET to read a job and DELETE to cancel it."
        return http_problem(405, "Method not allowed", detail, request_id, _ALLOW)

    async def _show(self, key: Key, job_id: str, request_id: str) -> LocalReply | Refusal:
        status = await self._store.find(key.account.id, job_id)
        if status is None:
            return _no_job(request_id)
        eta, _ = await self._eta(key, status)
        document = job_document(status.job, self._href(job_id), status.position, eta)
        if status.job.result is not None:
            document["result"] = result_document(status.job.result)
        return LocalReply(request_id, 200, "http-200", document)

    async def _cancel(self, key: Key, job_id: str, request_id: str) -> LocalReply | Refusal:
        account_id = key.account.id
        state = await self._store.end(account_id, job_id, "", _CANCELLED)
        if state is None:
            return _no_job(request_id)
        if state is not JobState.CANCELLED:
            verb = "is running" if state is JobState.RUNNING else f"is {state}"
            detail = f"The job {verb}, so it cannot be cancelled."
            return http_problem(409, "Too late to cancel", detail, request_id)
        self._counted[state] += 1
        await self._store.wake(account_id)
        return await self._show(key, job_id, request_id)

    async def _eta(self, key: Key, status: JobStatus) -> tuple[int | None, int]:
        """Return the estimated start of a waiting job and the time now; (None, 0) if unknown."""
        if status.job.state is not JobState.WAITING:
            return None, 0
        request = Request("")
        request.method, request.target = status.job.method, status.job.target
        entitlement = self._gate.entitlement_of(request, key)
        answer = await self._gate.peek(key, entitlement) if entitlement is not None else None
        if entitlement is None or answer is None:
            return None, 0
        return eta_us(entitlement.claims, answer, status.position - 1), answer.now_us

    def _href(self, job_id: str) -> str:
        return f"{self._prefix.decode()}jobs/{job_id}"


def _digest(request: Request) -> bytes | None:
    """Return the SHA-256 of the request's API key; None without one."""
    try:
        secret = credential(request.api_keys, request.authorizations)
    except AmbiguousCredential:
        return None
    return key_digest(secret) if secret is not None else None


def _key_value(request: Request) -> bytes | None:
    """Return the Idempotency-Key; None if there are several or it is too long."""
    values = request.idempotency_keys
    return values[0] if len(values) == 1 and 0 < len(values[0]) <= MAX_KEY_BYTES else None


def _no_job(request_id: str) -> Refusal:
    detail = "This account has no such job, or it ended too long ago."
    return http_problem(404, "No such job", detail, request_id)


def _queue_full(deferred: Deferred, *, all_accounts: bool) -> Refusal:
    """Return a 429 that names the job queue, with the limit's own Retry-After."""
    scope = "of all accounts" if all_accounts else f"of account {deferred.key.account.id}"
    detail = (
        f"This request does not fit into the plan's limits now, and the job queue {scope} is full. "
        "Nothing was charged."
    )
    refusal = simple_refusal(Reason.QUEUE_FULL, deferred.request_id, detail)
    limits = deferred.refusal
    steps = [*_steps(refusal), *_steps(limits)]
    problem = {**limits.problem, **refusal.problem, "how_to_fix": steps}
    return Refusal(429, Reason.QUEUE_FULL, problem, limits.retry_after_s, limits.headers)


def _steps(refusal: Refusal) -> list[object]:
    steps = refusal.problem["how_to_fix"]
    return steps if isinstance(steps, list) else []
