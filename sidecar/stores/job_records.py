"""A job as a hash in Redis, and back. Bytes stay bytes."""

import json
from typing import Any, Final

from sidecar.core.jobs.job import Field, Job, JobOutcome, JobRequest, JobResult, JobState
from sidecar.errors import StoreUnavailable
from sidecar.stores.job_terms import OVERHEAD

Pairs = list[bytes | str | int]
_END: Final = b"\r\n"


def job_pairs(job: Job) -> Pairs:
    """Return the names and values of a new job's hash, in turn; the script adds state and time.

    Raises ValueError if the job has no request.
    """
    request = job.request
    if request is None:
        raise ValueError("a new job needs its request")
    return [
        "id", job.id, "account", job.account, "key", job.key, "digest", job.digest.hex(),
        "delivery", job.delivery, "method", request.method, "target", request.target,
        "host", request.host, "address", request.address, "type", request.content_type,
        "encoding", request.content_encoding, "fields", _lines(request.fields),
        "body", request.body,
    ]  # fmt: skip


def record_bytes(pairs: Pairs) -> int:
    """Return the size that a job with this record counts, in bytes."""
    return OVERHEAD + sum(len(str(one) if isinstance(one, int) else one) for one in pairs)


def outcome_pairs(outcome: JobOutcome) -> Pairs:
    """Return the names and values that an ended job's hash gets, in turn."""
    pairs: Pairs = ["reason", outcome.reason]
    result = outcome.result
    if result is not None:
        head = json.dumps({"status": result.status, "truncated": result.truncated})
        pairs += ["result", head, "result_fields", _lines(result.fields)]
        pairs += ["result_body", result.body]
    return pairs


def read_job(flat: Any) -> Job:
    """Return the job of a hash as HGETALL replies it. Raises StoreUnavailable if it is invalid."""
    try:
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return _job({name.decode(): value for name, value in pairs})
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise StoreUnavailable(f"the record of a job is invalid: {error!r}") from None


def _job(record: dict[str, bytes]) -> Job:
    state = JobState(record["state"].decode())
    return Job(
        id=record["id"].decode(),
        account=record["account"].decode(),
        key=record["key"].decode(),
        digest=bytes.fromhex(record["digest"].decode()),
        delivery="at-most-once" if record["delivery"] == b"at-most-once" else "at-least-once",
        method=record["method"].decode(),
        target=record["target"],
        accepted_us=int(record["accepted"]),
        state=state,
        tries=int(record["tries"]),
        started_us=int(record.get("started", 0)),
        ended_us=int(record.get("ended", 0)),
        reason=record.get("reason", b"").decode(),
        request=_request(record) if state.is_open and "body" in record else None,
        result=_result(record) if "result" in record else None,
        result_dropped="dropped" in record,
    )


def _request(record: dict[str, bytes]) -> JobRequest:
    return JobRequest(
        method=record["method"].decode(),
        target=record["target"],
        host=record["host"],
        address=record["address"].decode(),
        fields=_fields(record["fields"]),
        body=record["body"],
        content_type=record["type"],
        content_encoding=record["encoding"],
    )


def _result(record: dict[str, bytes]) -> JobResult:
    head = json.loads(record["result"])
    fields = _fields(record["result_fields"])
    return JobResult(head["status"], fields, record["result_body"], head["truncated"])


def _lines(fields: tuple[Field, ...]) -> bytes:
    return b"".join(line for _, line in fields)


def _fields(lines: bytes) -> tuple[Field, ...]:
    return tuple(
        (line.partition(b":")[0].lower(), line + _END) for line in lines.split(_END) if line
    )
