"""The access log: one line per request, whatever its response.

A line never holds an API key. The target is logged without its query string, which may hold one.
"""

import time
from typing import Final

from sidecar.core.model import Entitlement, Key
from sidecar.gate import UNKNOWN
from sidecar.logs import logger
from sidecar.proxy.downstream.request import Request

log = logger("proxy")

MAX_TARGET: Final = 256  # characters of the target that are logged


def log_request(
    request: Request,
    request_id: str,
    status: int,
    reason: str,
    started: float,
    *,
    bytes_in: int,
    bytes_out: int,
    key: Key | None = None,
    entitlement: Entitlement | None = None,
) -> None:
    """Log a request that has ended. `started` is its time by `time.perf_counter`.

    Bytes are those of bodies. `key` and `entitlement`: None if the request ended before they were
    known.
    """
    route = entitlement.route if entitlement else None
    log.info(
        "request_ended",
        request_id=request_id,
        method=request.method or UNKNOWN,
        target=request.target.split(b"?", 1)[0].decode("latin-1")[:MAX_TARGET],
        status=status,
        duration_ms=round((time.perf_counter() - started) * 1000, 1),
        reason=reason,
        account=key.account.id if key else UNKNOWN,
        plan=entitlement.plan.id if entitlement else UNKNOWN,
        route=route.id if route else UNKNOWN,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        **{"class": route.request_class if route else UNKNOWN},
        **({} if request.trace is None else {"trace_id": request.trace.trace_id}),
    )
