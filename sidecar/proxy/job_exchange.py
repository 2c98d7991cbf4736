"""Forwards a deferred job: an exchange without a client.

Admission, connection, timeouts, metering and usage event are those of every request.
"""

import asyncio
from functools import partial
from time import perf_counter
from typing import Final, cast

from sidecar.core.jobs.deferral import with_idempotency_key
from sidecar.core.jobs.job import (
    RECHECK_US,
    UNSENT_RETRY_US,
    Field,
    Job,
    JobFailure,
    JobOutcome,
    JobRequest,
    JobResult,
    JobState,
    Postponed,
)
from sidecar.core.jobs.storage import StorageRules
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal
from sidecar.core.settlement import OutcomeReason
from sidecar.gate import Admission, Deferred, Gate, OnRecorded, Refused
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.connection_owner import ConnectionOwner
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.exchange import Exchange, resolve
from sidecar.proxy.heads import ProxyOptions
from sidecar.proxy.read_ahead import reading_of
from sidecar.proxy.request_end import end_trace
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.proxy.upstream.receiver import ResponseHead

log = logger("proxy")

_UNSENT: Final = (OutcomeReason.UPSTREAM_REFUSED, OutcomeReason.OVERLOADED)
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class JobForwarder:
    """Implements `jobs.runner.JobGate`."""

    def __init__(
        self,
        gate: Gate,
        pool: UpstreamPool,
        options: ProxyOptions,
        *,
        max_result: int,
        rules: StorageRules,
        timeout_s: float,
    ) -> None:
        self._gate = gate
        self._pool = pool
        self._options = options
        self._max_result = max_result
        self._rules = rules
        self._timeout_s = timeout_s

    async def admit(self, job: Job) -> "JobRun | Postponed | JobOutcome":
        """Ask the gate with the job's API key. The reservation of an admitted job is open."""
        stored = job.request
        if stored is None:
            return JobOutcome(JobState.FAILED, JobFailure.LOST)
        request = request_of(stored, job.id)

        async def read(entitlement: Entitlement) -> Reading:
            if len(stored.body) > entitlement.read_up_to:  # not read, as for a client's request
                return reading_of(request, entitlement, complete=False)
            return reading_of(request, entitlement, stored.body)

        admission = await self._gate.admit(request, read, _defer, job.digest)
        if isinstance(admission, Deferred):
            return _postponed(admission.decision)
        if isinstance(admission, Refused):
            return _refused(admission.refusal)
        if admission.key.account.id != job.account:  # the key now belongs to another account
            self._gate.abandon(admission)
            return JobOutcome(JobState.FAILED, JobFailure.KEY_REVOKED)
        admission.job = job.id
        exchange = JobExchange(
            request, admission, self._pool, self._options, self._max_result, self._rules
        )
        exchange.total_timeout = self._timeout_s
        return JobRun(job, self._gate, request, admission, exchange)


class JobRun:
    """Implements `jobs.runner.AdmittedJob`."""

    def __init__(
        self,
        job: Job,
        gate: Gate,
        request: Request,
        admission: Admission,
        exchange: "JobExchange",
    ) -> None:
        self._request = request
        self._job = job
        self._gate = gate
        self._admission = admission
        self._exchange = exchange

    def abandon(self) -> None:
        """Cancel the reservation."""
        self._gate.abandon(self._admission)

    async def run(self) -> JobOutcome | Postponed:
        """Forward the request, and settle however it ends.

        A cancelled run is not charged if the job may run again.
        """
        exchange = self._exchange
        may_repeat = self._job.delivery == "at-least-once"
        failed = False
        try:
            await exchange.run(perf_counter())
        except asyncio.CancelledError:
            if may_repeat:
                self.abandon()
            else:
                self._settle()
            raise
        except Exception as error:
            log.error("job_request_failed", request_id=self._admission.request_id, exc_info=error)
            failed = True  # compiled, an except clause must not await
        if failed:
            await self._settle_and_record()
            return JobOutcome(JobState.FAILED, INTERNAL_ERROR)
        outcome = exchange.outcome
        if outcome.reason in _UNSENT:
            self.abandon()
            return Postponed(UNSENT_RETRY_US)
        await self._settle_and_record()
        if outcome.reason not in (OutcomeReason.OK, OutcomeReason.UPSTREAM_ERROR):
            return JobOutcome(JobState.FAILED, outcome.reason)
        return JobOutcome(JobState.DONE, OutcomeReason.OK, exchange.result)

    async def _settle_and_record(self) -> None:
        """Settle, and wait for the event: it is recorded before the job's result can be read."""
        recorded = asyncio.get_running_loop().create_future()
        self._settle(partial(resolve, recorded))
        if self._admission.late_overage:
            await recorded

    def _settle(self, on_recorded: OnRecorded | None = None) -> None:
        exchange, admission = self._exchange, self._admission
        label = self._gate.settle(
            admission,
            exchange.outcome,
            internal_error=exchange.broke,
            on_recorded=on_recorded,
        )
        if self._request.trace is not None:
            end_trace(
                self._request.trace, self._request, admission.request_id, exchange.outcome.status,
                label, 0.0, admission.key, admission.entitlement, admission.job,
            )  # fmt: skip


class JobExchange(Exchange):
    """An exchange that stores the response, up to `max_body` bytes, instead of relaying it."""

    __slots__ = ("_body", "_fields", "_max_body", "_rules")

    def __init__(
        self,
        request: Request,
        admission: Admission,
        pool: UpstreamPool,
        options: ProxyOptions,
        max_body: int,
        rules: StorageRules,
    ) -> None:
        owner = cast("ConnectionOwner", NullOwner(pool.bounds))
        connection = ClientConnection(owner, asyncio.get_running_loop())
        super().__init__(request, admission, connection, pool, options, None)
        self._max_body = max_body
        self._rules = rules
        self._fields: tuple[Field, ...] = ()
        self._body = bytearray()

    @property
    def result(self) -> JobResult:
        """The stored response, without credentials."""
        truncated = self._bytes_out > len(self._body)
        return JobResult(self.status, self._fields, bytes(self._body), truncated)

    def response_head(self, head: ResponseHead) -> None:
        """Store the fields, and read costs from the head."""
        self._head_received = True
        self.status = head.status
        if self._usage_asked:
            self._hide_usage(head)
        self._fields = self._rules.response_fields(head.fields)
        self._read_costs(head)

    def response_body(self, data: bytes) -> None:
        """Store the body up to the bound."""
        if self._reader is not None and self._reader.wanted:
            self._reader.feed(data)
        if self._filter is not None:
            data = self._filter.feed(data)
        self._bytes_out += len(data)
        self._body += data[: self._max_body - len(self._body)]

    def response_flush(self) -> None:
        """Mark the response as begun."""
        self._head_sent = self._request.begun = True


class NullOwner:
    """A stand-in owner for the connection of an exchange without a client.

    A connection without a transport is never slow, and drops what is written to it.
    """

    draining = False

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.unfinished: set[asyncio.Future[None]] = set()


def request_of(stored: JobRequest, job_id: str) -> Request:
    """Return the stored request as one that is complete."""
    request = Request(stored.address)
    request.method = stored.method
    request.target = stored.target
    request.host = (stored.host,) if stored.host else ()
    fields = with_idempotency_key(stored.fields, job_id)
    request.fields = [field for field in fields if field[0] != b"traceparent"]
    request.traceparents = tuple(
        line.partition(b":")[2].strip() for name, line in fields if name == b"traceparent"
    )
    request.content_type = stored.content_type
    request.content_encodings = (stored.content_encoding,) if stored.content_encoding else ()
    if stored.body or stored.method in _WITH_BODY:
        request.content_length = len(stored.body)
    if stored.body:
        request.feed(stored.body)
    request.end()
    return request


def _defer(_request: Request, _entitlement: Entitlement, _decision: Decision) -> bool:
    """Whether the gate defers instead of refusing: a job that does not fit waits."""
    return True


def _postponed(decision: Decision) -> Postponed | JobOutcome:
    if decision.retry_us is None:
        return JobOutcome(JobState.FAILED, JobFailure.NEVER_FITS)
    return Postponed(decision.retry_us)


def _refused(refusal: Refusal) -> Postponed | JobOutcome:
    """Return what a refusal means for a job. It waits if the cause is temporary."""
    if refusal.status == 503:
        return Postponed(UNSENT_RETRY_US)
    if refusal.reason == Reason.SUSPENDED:
        return Postponed(RECHECK_US)
    if refusal.reason == Reason.UNKNOWN_KEY:
        return JobOutcome(JobState.FAILED, JobFailure.KEY_REVOKED)
    return JobOutcome(JobState.FAILED, refusal.reason)
