"""Refusals of requests that could have become deferred jobs, and of changes of jobs."""

from collections.abc import Sequence
from dataclasses import replace

from sidecar.core.jobs.job import JobRefusal
from sidecar.core.kinds import MICRO
from sidecar.core.reasons import Reason
from sidecar.core.refusals.build import Refusal, http_problem, simple_refusal


def no_such_job(request_id: str) -> Refusal:
    """404: the account has no job with this ID."""
    detail = "This account has no such job, or it ended too long ago."
    return http_problem(404, "No such job", detail, request_id)


def too_fast(request_id: str, retry_us: int) -> Refusal:
    """429: the account adds and cancels jobs too fast. `retry_us`: until it may again."""
    refusal = simple_refusal(Reason.JOB_RATE, request_id)
    return replace(refusal, retry_after_s=max(1, -(-retry_us // MICRO)))


def not_deferred(limits: Refusal, parameters: Sequence[str]) -> Refusal:
    """The limits' refusal, with the query parameters for which the request was not deferred."""
    names = ", ".join(parameters)
    detail = (
        f"{limits.problem['detail']} The request was not deferred, since its query may contain "
        f"credentials ({names}), and a deferred job does not store them."
    )
    step = {"action": "move_credentials", "what": "Send credentials in header fields."}
    problem = {**limits.problem, "detail": detail, "how_to_fix": [*_steps(limits), step]}
    return replace(limits, problem=problem)


def queue_full(
    limits: Refusal, request_id: str, account_id: str, refusal: JobRefusal, limit: int
) -> Refusal:
    """429: the job does not fit. Names the job queue, with the limits' own Retry-After.

    `limit` is the number that refuses it. Raises KeyError for a refusal that is not about room.
    """
    account = f"account {account_id}"
    cause = {
        JobRefusal.FULL: f"the job queue of {account} is full: it has {limit:,} jobs",
        JobRefusal.ALL_FULL: "the job queue of all accounts is full",
        JobRefusal.FULL_BYTES: f"the job queue of {account} is full: together, its jobs may take "
        f"{limit:,} bytes",
        JobRefusal.ALL_FULL_BYTES: "the job queue of all accounts is full: their jobs take too "
        "many bytes",
        JobRefusal.TOO_LARGE: f"it is too large for the job queue of {account}: together, its jobs "
        f"may take {limit:,} bytes",
    }[refusal]
    detail = (
        f"This request does not fit into the plan's limits now, and {cause}. Nothing was charged."
    )
    full = simple_refusal(Reason.QUEUE_FULL, request_id, detail)
    steps = _steps(full)
    if refusal is JobRefusal.TOO_LARGE:
        steps = [{"action": "send_less", "what": "Send a smaller body, or several requests."}]
    problem = {**limits.problem, **full.problem, "how_to_fix": [*steps, *_steps(limits)]}
    return Refusal(429, Reason.QUEUE_FULL, problem, limits.retry_after_s, limits.headers)


def _steps(refusal: Refusal) -> list[object]:
    steps = refusal.problem["how_to_fix"]
    return steps if isinstance(steps, list) else []
