"""The way to the API for a deferred job: an exchange without a client at its other end.

Admission, connection, timeouts, metering and event are those of every call.
"""

import asyncio
from typing import Final, cast

from sidecar.core.jobs.deferral import is_credential, with_own_key
from sidecar.core.jobs.job import (
    LOOK_AGAIN_US,
    UNSENT_RETRY_US,
    Field,
    Job,
    JobCall,
    JobEnd,
    JobState,
    NotNow,
    Over,
    Result,
)
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal
from sidecar.core.settlement import OutcomeReason
from sidecar.gate import Admission, Deferred, Gate, Refused
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection, ConnectionOwner
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.heads import ProxyOptions
from sidecar.proxy.read_ahead import reading_of
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.proxy.upstream.receiver import ResponseHead

log = logger("proxy")

_UNSENT: Final = (OutcomeReason.UPSTREAM_REFUSED, OutcomeReason.OVERLOADED)
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class JobForwarder:
    """Keeps `waiting.runner.Door`."""

    def __init__(
        self,
        gate: Gate,
        pool: UpstreamPool,
        options: ProxyOptions,
        *,
        max_result: int,
        timeout_s: float,
    ) -> None:
        self._gate = gate
        self._pool = pool
        self._options = options
        self._max_result = max_result
        self._timeout_s = timeout_s

    async def admit(self, job: Job) -> "JobRun | NotNow | Over":
        """Ask the gate, as the key that the job is of. A job that may go on is reserved."""
        call = job.call
        if call is None:
            return Over(JobState.FAILED, JobEnd.LOST)
        request = request_of(call, job.id)

        async def read(found: Entitlement) -> Reading:
            if len(call.body) > found.read_up_to:  # as when it was sent, it is not looked at
                return reading_of(request, found, complete=False)
            return reading_of(request, found, call.body)

        said = await self._gate.admit(request, read, _later, job.digest)
        if isinstance(said, Deferred):
            return _not_yet(said.decision)
        if isinstance(said, Refused):
            return _refused(said.refusal)
        if said.key.account.id != job.account:  # the key is another's by now
            self._gate.abandon(said)
            return Over(JobState.FAILED, JobEnd.KEY_REVOKED)
        said.job = job.id
        exchange = JobExchange(request, said, self._pool, self._options, self._max_result)
        exchange.total_timeout = self._timeout_s
        return JobRun(job, self._gate, said, exchange)


class JobRun:
    """Keeps `waiting.runner.Going`."""

    def __init__(self, job: Job, gate: Gate, admission: Admission, exchange: "JobExchange") -> None:
        self._job = job
        self._gate = gate
        self._admission = admission
        self._exchange = exchange

    def abandon(self) -> None:
        """Give the reservation back."""
        self._gate.abandon(self._admission)

    async def run(self) -> Over | NotNow:
        """Send it, and settle on every way out. What runs again costs nothing this time."""
        exchange = self._exchange
        again = self._job.delivery == "at-least-once"
        try:
            outcome = await exchange.run()
        except asyncio.CancelledError:
            self.abandon() if again else self._settle()
            raise
        except Exception as error:
            log.error("job_request_failed", request_id=self._admission.request_id, exc_info=error)
            self._settle()
            return Over(JobState.FAILED, INTERNAL_ERROR)
        if outcome.reason in _UNSENT:
            self.abandon()
            return NotNow(UNSENT_RETRY_US)
        self._settle()
        if outcome.reason is not OutcomeReason.OK:
            return Over(JobState.FAILED, outcome.reason)
        return Over(JobState.DONE, OutcomeReason.OK, exchange.result)

    def _settle(self) -> None:
        exchange = self._exchange
        self._gate.settle(self._admission, exchange.outcome, broke=exchange.broke)


class JobExchange(Exchange):
    """An exchange whose answer is kept, up to a bound, instead of relayed."""

    def __init__(
        self,
        request: Request,
        admission: Admission,
        pool: UpstreamPool,
        options: ProxyOptions,
        most: int,
    ) -> None:
        nowhere = cast("ConnectionOwner", NullOwner(pool.bounds))
        nobody = ClientConnection(nowhere, asyncio.get_running_loop())
        super().__init__(request, admission, nobody, pool, options)
        self._most = most
        self._fields: tuple[Field, ...] = ()
        self._body = bytearray()

    @property
    def result(self) -> Result:
        """The API's answer as it is kept: without credentials."""
        cut = self._bytes_out > len(self._body)
        return Result(self.status, self._fields, bytes(self._body), cut)

    def response_head(self, head: ResponseHead) -> None:
        """Keep it."""
        self._head_received = True
        self.status = head.status
        self._fields = tuple(field for field in head.fields if not is_credential(field[0]))
        self._read_costs(head)

    def response_body(self, data: bytes) -> None:
        """Keep what there is room for."""
        self._bytes_out += len(data)
        self._body += data[: self._most - len(self._body)]
        if self._reader is not None and self._reader.wanted:
            self._reader.feed(data)

    def response_flush(self) -> None:
        """From here on there is an answer, if only a part of one."""
        self._head_sent = self._request.begun = True


class NullOwner:
    """What a connection that nobody has made asks of its front. Without a transport it is always
    there, never slow, and what is written to it is gone."""

    draining = False

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds


def request_of(call: JobCall, job_id: str) -> Request:
    """The stored call as a request that has come in whole."""
    request = Request(call.address)
    request.method = call.method
    request.target = call.target
    request.host = (call.host,) if call.host else ()
    request.fields = list(with_own_key(call.fields, job_id))
    request.content_type = call.content_type
    request.content_encoding = call.content_encoding
    if call.body or call.method in _WITH_BODY:
        request.content_length = len(call.body)
    if call.body:
        request.feed(call.body)
    request.end()
    return request


def _later(_request: Request, _found: Entitlement, _decision: Decision) -> bool:
    """A job that does not fit is no refused call: it goes on waiting."""
    return True


def _not_yet(decision: Decision) -> NotNow | Over:
    if decision.retry_us is None:
        return Over(JobState.FAILED, JobEnd.NEVER_FITS)
    return NotNow(decision.retry_us)


def _refused(refusal: Refusal) -> NotNow | Over:
    """What passes by itself is waited for: a lack on our side, an invoice to be paid."""
    if refusal.status == 503:
        return NotNow(UNSENT_RETRY_US)
    if refusal.reason == Reason.SUSPENDED:
        return NotNow(LOOK_AGAIN_US)
    if refusal.reason == Reason.UNKNOWN_KEY:
        return Over(JobState.FAILED, JobEnd.KEY_REVOKED)
    return Over(JobState.FAILED, refusal.reason)
