"""The text form of a sink, as `--sinks` lists it."""

from typing import Final, Literal, NamedTuple

SinkKind = Literal["stdout", "file", "redis"]
SINK_FORMS: Final = "stdout, file:/path or redis"


class SinkSpec(NamedTuple):
    """A kind of sink, and the path of a file sink (else "")."""

    kind: SinkKind
    path: str = ""


def parse_sink(text: str) -> SinkSpec:
    """Parse `stdout`, `file:PATH` or `redis`. Raises ValueError for any other text."""
    kind, _, path = text.partition(":")
    if text == "stdout":
        return SinkSpec("stdout")
    if text == "redis":
        return SinkSpec("redis")
    if kind == "file" and path:
        return SinkSpec("file", path)
    shown = f"{kind}:…" if "@" in path else text  # a URL may contain a password
    raise ValueError(f'"{shown}" is not a sink; write {SINK_FORMS}')
