"""Where events go: one module per kind of sink, chosen by a short text."""

from pathlib import Path

from sidecar.errors import SettingsError
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.sinks.output_lock import OutputLock
from sidecar.metering.sinks.stdout import StdoutSink
from sidecar.ports import Sink

_POSSIBLE = "write stdout, file:/path/to/events.jsonl, redis or redis:redis://HOST:PORT/NUMBER"


def make_sink(spec: str, *, redis_url: str, stream_key: str, turns_in: Path | None = None) -> Sink:
    """The sink that `spec` asks for. `redis` alone means the Redis at `redis_url`.

    `turns_in`: other sinks write to the same file or standard output; all of them take turns by
    lock files in this directory. Raises SettingsError for what is not a sink. Connects to
    nothing yet.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "stdout":
        return StdoutSink(turns=_turns(turns_in, "stdout"))
    if kind == "file" and rest:
        return FileSink(Path(rest), turns=_turns(turns_in, "file"))
    if kind == "redis" and (rest or not colon):
        return _redis(rest or redis_url, stream_key)
    # Only the kind is repeated: the rest may hold a password.
    raise SettingsError(f'"{kind}" is not a sink that can be made from this text; {_POSSIBLE}.')


def _turns(directory: Path | None, kind: str) -> OutputLock | None:
    return OutputLock(directory / f"sink-{kind}.lock") if directory else None


def _redis(url: str, stream_key: str) -> Sink:
    from sidecar.metering.sinks.redis import RedisSink  # only who ships to Redis loads its client

    try:
        return RedisSink(url, stream_key)
    except ValueError as error:
        raise SettingsError(f"The redis sink's address is {error}. Or {_POSSIBLE}.") from None
