"""A job as a hash in Redis, and back. Bytes stay bytes."""

import json
from typing import Any, Final

from sidecar.core.jobs.job import Field, Job, JobCall, JobState, Over, Result
from sidecar.errors import StoreUnavailable

Pairs = list[bytes | str | int]
_END: Final = b"\r\n"


def written(job: Job) -> Pairs:
    """What is stored of a new job, name and value in turn. The script adds state and time."""
    call = job.call
    assert call is not None  # noqa: S101 - a new job has one
    return [
        "id", job.id, "account", job.account, "key", job.key, "digest", job.digest.hex(),
        "delivery", job.delivery, "method", call.method, "target", call.target,
        "host", call.host, "address", call.address, "type", call.content_type,
        "encoding", call.content_encoding, "fields", _lines(call.fields), "body", call.body,
    ]  # fmt: skip


def ended(over: Over) -> Pairs:
    """What is stored of how a job ended."""
    pairs: Pairs = ["reason", over.reason]
    if over.result is not None:
        kept = json.dumps({"status": over.result.status, "truncated": over.result.truncated})
        pairs += ["result", kept, "answer", _lines(over.result.fields), "said", over.result.body]
    return pairs


def read(flat: Any) -> Job:
    """A record as a value. Raises StoreUnavailable for what is none."""
    try:
        return _read({name.decode(): value for name, value in zip(*_halves(flat), strict=True)})
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise StoreUnavailable(f"a job's record makes no sense: {error!r}") from None


def _halves(flat: Any) -> tuple[Any, Any]:
    return flat[::2], flat[1::2]


def _read(record: dict[str, bytes]) -> Job:
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
        call=_call(record) if state.is_open and "body" in record else None,
        result=_result(record) if "result" in record else None,
    )


def _call(record: dict[str, bytes]) -> JobCall:
    return JobCall(
        method=record["method"].decode(),
        target=record["target"],
        host=record["host"],
        address=record["address"].decode(),
        fields=_fields(record["fields"]),
        body=record["body"],
        content_type=record["type"],
        content_encoding=record["encoding"],
    )


def _result(record: dict[str, bytes]) -> Result:
    kept = json.loads(record["result"])
    return Result(kept["status"], _fields(record["answer"]), record["said"], kept["truncated"])


def _lines(fields: tuple[Field, ...]) -> bytes:
    return b"".join(line for _, line in fields)


def _fields(lines: bytes) -> tuple[Field, ...]:
    return tuple(
        (line.partition(b":")[0].lower(), line + _END) for line in lines.split(_END) if line
    )
