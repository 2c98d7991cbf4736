"""The access log: one line for each call, whatever it was answered. It never holds a key, and of
the target never the query string, where clients put keys and worse."""

import time
from typing import Final

from sidecar.core.reasons import Reason
from sidecar.core.settlement import Outcome
from sidecar.gate import NOBODY, Admission, Deferred, Refused
from sidecar.logs import logger
from sidecar.proxy.downstream.request import Request

log = logger("proxy")

LONGEST_TARGET: Final = 256  # characters of it that are kept


class AccessLog:
    """`on`: whether there is one; callers ask before they call. Bytes are those of bodies."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def forwarded(
        self, request: Request, admission: Admission, outcome: Outcome, reason: str, started: float
    ) -> None:
        """A call that was admitted. `started`: when its head was complete (time.perf_counter)."""
        found = admission.entitlement
        _line(
            request,
            admission.request_id,
            outcome.status,
            started,
            reason=reason,
            account=admission.key.account.id,
            plan=found.plan.id,
            route=found.route.id,
            request_class=found.route.request_class,
            bytes_in=outcome.bytes_in,
            bytes_out=outcome.bytes_out,
        )

    def refused(self, request: Request, refused: Refused, bytes_out: int, started: float) -> None:
        """A call that the gate refused."""
        key, found = refused.key, refused.entitlement
        _line(
            request,
            refused.request_id,
            refused.refusal.status,
            started,
            reason=refused.refusal.reason,
            account=key.account.id if key else NOBODY,
            plan=found.plan.id if found else NOBODY,
            route=found.route.id if found else NOBODY,
            request_class=found.route.request_class if found else NOBODY,
            bytes_in=request.body_bytes,
            bytes_out=bytes_out,
        )

    def deferred(
        self, request: Request, deferred: Deferred, status: int, bytes_out: int, started: float
    ) -> None:
        """A call that runs later."""
        found = deferred.entitlement
        _line(
            request,
            deferred.request_id,
            status,
            started,
            reason=Reason.DEFERRED,
            account=deferred.key.account.id,
            plan=found.plan.id,
            route=found.route.id,
            request_class=found.route.request_class,
            bytes_in=request.body_bytes,
            bytes_out=bytes_out,
        )

    def local(
        self,
        request: Request,
        request_id: str,
        status: int,
        reason: str,
        bytes_out: int,
        started: float,
    ) -> None:
        """A call that was answered before anybody asked whose it is."""
        _line(
            request,
            request_id,
            status,
            started,
            reason=reason,
            account=NOBODY,
            plan=NOBODY,
            route=NOBODY,
            request_class=NOBODY,
            bytes_in=request.body_bytes,
            bytes_out=bytes_out,
        )


def _line(
    request: Request,
    request_id: str,
    status: int,
    started: float,
    *,
    request_class: str,
    **fields: str | int,
) -> None:
    log.info(
        "request_ended",
        request_id=request_id,
        method=request.method or NOBODY,
        target=request.target.split(b"?", 1)[0].decode("latin-1")[:LONGEST_TARGET],
        status=status,
        ms=round((time.perf_counter() - started) * 1000, 1),
        **{"class": request_class},
        **fields,
    )
