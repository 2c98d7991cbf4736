"""Exchanges that failed: which are retried, and what the sidecar replies to the others."""

from typing import Final

from sidecar.core.refusals.build import http_problem
from sidecar.core.settlement import OutcomeReason
from sidecar.gate import Admission
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.heads import ProxyOptions, limit_fields
from sidecar.proxy.responses import LocalReply, refusal_reply
from sidecar.proxy.upstream.connection import UpstreamConnection

_IDEMPOTENT: Final = frozenset(
    {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"}
)  # RFC 9110, 9.2.2

FAILURES: Final = {  # status and title
    OutcomeReason.UPSTREAM_REFUSED: (502, "The API cannot be reached"),
    OutcomeReason.UPSTREAM_BROKEN: (502, "The API gave no usable answer"),
    OutcomeReason.UPSTREAM_TIMEOUT: (504, "The API took too long"),
    OutcomeReason.OVERLOADED: (503, "The API is at capacity"),
    OutcomeReason.CLIENT_GONE: (408, "Request timeout"),
}


def failure_reply(
    reason: OutcomeReason,
    detail: str,
    fault: Fault | None,
    admission: Admission,
    options: ProxyOptions,
) -> LocalReply:
    """The reply to a failed exchange. `fault` is that of the client's message, if it has one."""
    request_id = admission.request_id
    status, title = FAILURES[reason]
    if fault is not None:
        status, title, detail = fault.status, fault.title, fault.detail
    reply = refusal_reply(request_id, http_problem(status, title, detail, request_id))
    return reply._replace(fields=reply.fields + limit_fields(admission, options))


def may_retry(reason: OutcomeReason, upstream: UpstreamConnection, request: Request) -> bool:
    """Whether a retry is safe: the pooled connection was closed before the request arrived."""
    return (
        reason is OutcomeReason.UPSTREAM_BROKEN
        and upstream.reused
        and not upstream.answered
        and not request.has_body
        and request.method in _IDEMPOTENT
    )
