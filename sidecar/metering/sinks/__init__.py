"""Sinks: the destinations of events, one module per kind."""

from pathlib import Path

from sidecar.core.sink_spec import SinkSpec
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.sinks.output_lock import OutputLock
from sidecar.metering.sinks.stdout import StdoutSink
from sidecar.ports import Sink


def make_sink(
    spec: SinkSpec, *, redis_url: str, stream_key: str, lock_directory: Path | None = None
) -> Sink:
    """Return the sink of a spec. It connects to nothing yet.

    With `lock_directory`, several processes share the file or standard output: a lock file in this
    directory keeps their lines apart.
    """
    if spec.kind == "redis":
        from sidecar.metering.sinks.redis import RedisSink  # imports a client that needs memory

        return RedisSink(redis_url, stream_key)
    lock = OutputLock(lock_directory / f"sink-{spec.kind}.lock") if lock_directory else None
    if spec.kind == "file":
        return FileSink(Path(spec.path), lock=lock)
    return StdoutSink(lock=lock)
