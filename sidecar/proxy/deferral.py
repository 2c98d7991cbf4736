"""`202 Accepted`: turns a request that does not fit now into a job, and serves `/-/jobs/{id}`.

A request is deferred if limits refuse it, it has an API key, and its route is deferrable or it has
`Prefer: respond-async` (RFC 7240, section 4.1). A request that cannot be stored is refused.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from sidecar.core.identity import AmbiguousCredential, credential, key_digest
from sidecar.core.jobs.deferral import (
    fits_later,
    idempotency_digest,
    idempotency_key,
    key_problem,
    may_run_later,
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
from sidecar.core.jobs.storage import StorageRules
from sidecar.core.kinds import MICRO
from sidecar.core.model import Entitlement, Key
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, http_problem, simple_refusal
from sidecar.core.refusals.jobs import no_such_job, not_deferred, queue_full, too_fast
from sidecar.core.refusals.problems import Fields
from sidecar.errors import StoreUnavailable
from sidecar.gate import Deferred, Gate, Refused
from sidecar.ports import JobStore
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import without_nominated
from sidecar.proxy.read_ahead import read_ahead
from sidecar.proxy.responses import LocalReply

_ALLOW: Final = ((b"Allow", b"GET, HEAD, DELETE"),)
_JOB: Final = re.compile(rb"jobs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_CANCELLED: Final = JobOutcome(JobState.CANCELLED, JobState.CANCELLED)


class KeyedRequest(NamedTuple):
    """A request whose Idempotency-Key decides the answer: an existing job, or a refusal.

    `job_id`: an earlier request with the same key has created this job; None: `reason` refuses it,
    with `detail` if that is not empty.
    """

    key: Key
    entitlement: Entitlement
    job_id: str | None
    reason: Reason = Reason.OTHER_CALL
    detail: str = ""
    retry_us: int = 0

    def refusal(self, request_id: str) -> Refusal:
        """Return the refusal."""
        if self.reason is Reason.JOB_RATE:
            return too_fast(request_id, self.retry_us)
        return simple_refusal(self.reason, request_id, self.detail or None)


class Deferral:
    """HTTP interface of jobs for their account.

    `limits` are the numbers that refuse further jobs, for the refusals. `counted` counts accepted
    and cancelled jobs; `on_accepted` is called after each new job.
    """

    def __init__(
        self,
        gate: Gate,
        store: JobStore,
        *,
        prefix: bytes,
        max_body: int,
        limits: Mapping[JobRefusal, int],
        rules: StorageRules,
        delivery: Delivery,
        new_id: Callable[[], str],
        counted: Counter[str],
        on_accepted: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._store = store
        self._prefix = prefix
        self._max_body = max_body
        self._limits = limits
        self._rules = rules
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

    async def check_key(
        self, request: Request, connection: ClientConnection
    ) -> KeyedRequest | Refused | None:
        """Return what the request's Idempotency-Key decides; None if that is nothing.

        A request that cannot become a job is not checked: its key is for the API. Raises BodyBroken
        if the body cannot be read.
        """
        if _digest(request) is None:
            return None
        key = await self._gate.identify(request)
        if isinstance(key, Refused):
            return key
        entitlement = self._gate.entitlement_of(request, key)
        if entitlement is None or not self._may_run_later(request, entitlement):
            return None
        problem = key_problem(request.idempotency_keys)
        if problem:
            return KeyedRequest(key, entitlement, None, Reason.BAD_KEY, problem)
        try:
            return await self._find_existing(request, connection, key, entitlement)
        except StoreUnavailable:
            return None  # the reservation reports it

    async def _find_existing(
        self,
        request: Request,
        connection: ClientConnection,
        key: Key,
        entitlement: Entitlement,
    ) -> KeyedRequest | None:
        account_id, [value] = key.account.id, request.idempotency_keys
        digest = idempotency_digest(key.id, value)
        existing = await self._store.find_by_key(account_id, digest)
        if existing is None:
            return None
        retry_us = await self._store.count_change(account_id)
        if retry_us:
            return KeyedRequest(key, entitlement, None, Reason.JOB_RATE, retry_us=retry_us)
        job_id, request_digest = existing
        target = self._rules.request_target(request.target).target
        stored = await self._stored(request, connection, target)
        same = stored is not None and (
            idempotency_key(key.id, value, stored).request_digest == request_digest
        )
        return KeyedRequest(key, entitlement, job_id if same else None)

    async def defer(
        self, request: Request, connection: ClientConnection, deferred: Deferred
    ) -> LocalReply | Refusal:
        """Queue a job, and return the 202 or a refusal. Raises BodyBroken."""
        digest = _digest(request)
        try:
            retry_us = await self._store.count_change(deferred.key.account.id)
            if retry_us:
                return too_fast(deferred.request_id, retry_us)
            target = self._rules.request_target(request.target)
            if target.omitted and self._rules.query == "refuse":
                return not_deferred(deferred.refusal, target.omitted)
            stored = await self._stored(request, connection, target.target)
            if stored is None or digest is None:
                return deferred.refusal
            accepted = await self._accept(request, stored, digest, deferred)
            if isinstance(accepted, AcceptedJob):
                fields = deferred.refusal.headers
                return await self.accepted(request, deferred, accepted.job_id, fields)
        except StoreUnavailable:
            return simple_refusal(Reason.STORE_UNAVAILABLE, deferred.request_id)
        if accepted is JobRefusal.OTHER_REQUEST:
            return simple_refusal(Reason.OTHER_CALL, deferred.request_id)
        account_id, limit = deferred.key.account.id, self._limits.get(accepted, 0)
        return queue_full(deferred.refusal, deferred.request_id, account_id, accepted, limit)

    async def _accept(
        self, request: Request, stored: JobRequest, digest: bytes, deferred: Deferred
    ) -> AcceptedJob | JobRefusal:
        key = deferred.key
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
        values = request.idempotency_keys
        accepted = await self._store.add(
            job,
            idempotency_key(key.id, values[0], stored) if values else None,
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
            document |= self._not_stored(request)
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

    async def _stored(
        self, request: Request, connection: ClientConnection, target: bytes
    ) -> JobRequest | None:
        """Return the request as a job stores it; None if the body is too large."""
        body, whole = await read_ahead(request, connection, self._max_body)
        if not whole or len(body) > self._max_body:
            return None
        fields = without_nominated(request.fields, request.connection)
        if len(request.traceparents) == 1:
            line = b"traceparent: %b\r\n" % request.traceparents[0]
            fields = [*fields, (b"traceparent", line)]
        return JobRequest(
            method=request.method,
            target=target,
            host=request.host[0] if request.host else b"",
            address=request.address,
            fields=self._rules.request_fields(fields).fields,
            body=body,
            content_type=request.content_type,
            content_encoding=request.content_encoding,
        )

    def _not_stored(self, request: Request) -> dict[str, Any]:
        """Return the members of the 202 that name what the job does not store of the request."""
        fields = self._rules.request_fields(request.fields).omitted
        parameters = self._rules.request_target(request.target).omitted
        members = {"fields_not_stored": fields, "parameters_not_stored": parameters}
        return {name: list(omitted) for name, omitted in members.items() if omitted}

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
            return no_such_job(request_id)
        eta, _ = await self._eta(key, status)
        document = job_document(status.job, self._href(job_id), status.position, eta)
        if status.job.result is not None:
            document["result"] = result_document(status.job.result)
        return LocalReply(request_id, 200, "http-200", document)

    async def _cancel(self, key: Key, job_id: str, request_id: str) -> LocalReply | Refusal:
        account_id = key.account.id
        retry_us = await self._store.count_change(account_id)
        if retry_us:
            return too_fast(request_id, retry_us)
        state = await self._store.end(account_id, job_id, "", _CANCELLED)
        if state is None:
            return no_such_job(request_id)
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
