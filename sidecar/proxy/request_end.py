"""The end of a request, for its trace."""

from sidecar.core.model import Entitlement, Key
from sidecar.gate import UNKNOWN
from sidecar.ports import EndedRequest, Trace
from sidecar.proxy.access_log import MAX_TARGET
from sidecar.proxy.downstream.request import Request


def end_trace(
    trace: Trace,
    request: Request,
    request_id: str,
    status: int,
    outcome: str,
    started: float,
    key: Key | None,
    entitlement: Entitlement | None,
    job: str = "",
) -> None:
    """End the trace of a request. `started` is its time by `time.perf_counter`.

    A trace never holds an API key: the target goes without its query string, which may hold one.
    """
    route = entitlement.route.id if entitlement else UNKNOWN
    trace.end(
        started,
        EndedRequest(
            request_id,
            f"job {route}" if job else f"{request.method} {route}",
            request.method,
            request.target.split(b"?", 1)[0].decode("latin-1")[:MAX_TARGET],
            status,
            outcome,
            key.account.id if key else UNKNOWN,
            entitlement.plan.id if entitlement else UNKNOWN,
            route,
            job,
        ),
    )
