"""The door's way in: headers → a reader that is fed the body while it passes."""

from collections.abc import Sequence
from typing import Final

from sidecar.bodies.coding import Unread
from sidecar.bodies.decoding import Decoder, decoder_for
from sidecar.bodies.json_body import JsonBody
from sidecar.bodies.sse import EventStream
from sidecar.core.costs import Reserve, Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading

Paths = Sequence[tuple[str, JsonPath]]  # (meter, where its cost is told)

_JSON: Final = frozenset({b"application/json", b"text/json"})
_EVENT_STREAM: Final = b"text/event-stream"


class BodyReader:
    """Reads one body. What cannot be read is told at the end, never raised.

    `wanted` turns False when more bytes change nothing: the door may stop feeding.
    """

    __slots__ = ("_body", "_decoder", "_fed", "_meters", "_why")

    def __init__(
        self,
        paths: Paths,
        body: JsonBody | EventStream | None,
        decoder: Decoder | None = None,
        why: Unreadable | None = None,
    ) -> None:
        self._meters = [meter for meter, _ in paths]
        self._body = body
        self._decoder = decoder
        self._why = why
        self._fed = False

    @property
    def wanted(self) -> bool:
        """Whether more of the body can change the reading."""
        return self._why is None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, as they pass (still encoded). Never raises."""
        body = self._body
        if self._why is not None or body is None or not data:
            return
        self._fed = True
        try:
            if self._decoder is None:
                body.feed(data)
            else:
                for piece in self._decoder.feed(data):
                    body.feed(piece)
        except Unread as end:
            self._give_up(end.why)
        except MemoryError:
            self._give_up(Unreadable.TOO_LARGE)

    def finish(self, *, complete: bool = True) -> Reading:
        """What was read. `complete`: the body came to its end, as HTTP frames it.

        One that broke off is truncated, unless it is an event stream that had said `[DONE]`:
        clients hang up on that.
        """
        body, whole = self._body, complete and self._decoded
        if self._why is None and body is not None and (whole or body.ended):
            reading = body.finish()
        else:
            reading = Reading.nothing(self._meters, self._why or Unreadable.TRUNCATED)
        self._give_up(self._why or Unreadable.TRUNCATED)
        return reading

    @property
    def _decoded(self) -> bool:
        # An empty body is not even an empty gzip stream (an answer to HEAD, a 204).
        return self._decoder is None or self._decoder.finished or not self._fed

    def _give_up(self, why: Unreadable) -> None:
        self._why = why
        self._body = self._decoder = None  # what was kept is free at once


def reader_for(content_type: bytes, content_encoding: bytes, paths: Paths) -> BodyReader | None:
    """A reader for a body with these headers; None when there is nothing to look for.

    Both are the fields' values, b"" when absent; repeated Content-Encoding joined by commas.
    JSON is application/json, text/json and any +json (RFC 6839); else only event streams.
    """
    if not paths:
        return None
    kind = content_type.partition(b";")[0].strip().lower()
    if kind != _EVENT_STREAM and not _is_json(kind):
        return BodyReader(paths, None, why=Unreadable.NOT_JSON)
    try:
        decoder = decoder_for(content_encoding)
    except Unread as end:
        return BodyReader(paths, None, why=end.why)
    return BodyReader(
        paths, EventStream(paths) if kind == _EVENT_STREAM else JsonBody(paths), decoder
    )


def read_request(
    body: bytes,
    content_type: bytes,
    content_encoding: bytes,
    estimates: Sequence[tuple[str, Reserve]],
    *,
    complete: bool = True,
) -> Reading:
    """What a request's JSON says that it will cost, of the meters in `estimates` that look there.

    `body` is what was held back of it; `complete` says that it is all of it. A meter whose
    bound is smaller than the body is too_large, as all are when the body did not fit at all.
    """
    paths = [(m, r.path, r.bound) for m, r in estimates if isinstance(r.path, JsonPath)]
    fitting = [(m, path) for m, path, bound in paths if complete and len(body) <= bound]
    found: dict[str, int | Unreadable] = {m: Unreadable.TOO_LARGE for m, *_ in paths}
    kind = content_type.partition(b";")[0].strip().lower()
    reader = reader_for(content_type if _is_json(kind) else b"", content_encoding, fitting)
    if reader is not None:
        reader.feed(body)
        reading = reader.finish()
        found |= reading.values
        found |= reading.unreadable
    return Reading.of(found)


def _is_json(kind: bytes) -> bool:
    return kind in _JSON or (kind.endswith(b"+json") and b"/" in kind)
