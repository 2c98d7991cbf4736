"""JSON documents of a job, for `/-/jobs/{id}`, `202 Accepted` and webhooks."""

import base64
from typing import Any

from sidecar.core.jobs.job import Job, JobResult, JobState
from sidecar.core.text import instant, moment


def job_document(
    job: Job, href: str, position: int = 0, eta_us: int | None = None
) -> dict[str, Any]:
    """Return a job without its request's body. Instants are RFC 3339 in UTC.

    What was measured is exact to the millisecond, as in events; `eta` is rounded up to the second.

    `position` and `eta` are null unless the job waits; `eta` is also null if it is unknown.
    `result_dropped` is there if the result has made room for other jobs.
    """
    waits = job.state is JobState.WAITING
    return {
        "id": job.id,
        "state": job.state,
        "reason": job.reason or None,
        "account": job.account,
        "method": job.method,
        "target": job.target.decode("latin-1"),
        "delivery": job.delivery,
        "position": position if waits else None,
        "eta": instant(eta_us) if waits and eta_us is not None else None,
        "accepted_at": moment(job.accepted_us) if job.accepted_us else None,
        "started_at": moment(job.started_us) if job.started_us else None,
        "ended_at": moment(job.ended_us) if job.ended_us else None,
        "href": href,
        **({"result_dropped": True} if job.result_dropped else {}),
    }


def result_document(result: JobResult) -> dict[str, Any]:
    """Return the upstream's response. The body is text if it is UTF-8, else base64."""
    headers: dict[str, list[str]] = {}
    for name, line in result.fields:
        value = line.partition(b":")[2].strip(b" \t\r\n")
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    try:
        body, encoding = result.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(result.body).decode(), "base64"
    return {
        "status": result.status,
        "headers": headers,
        "body": body,
        "body_encoding": encoding,
        "truncated": result.truncated,
    }
