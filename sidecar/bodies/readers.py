"""The readers of bodies, chosen by Content-Type and Content-Encoding."""

from collections.abc import Sequence
from typing import Final

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.decoding import Decoder, decoder_for
from sidecar.bodies.json_body import JsonBody
from sidecar.bodies.sse import EventStream
from sidecar.core.costs import Reserve, Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading

Paths = Sequence[tuple[str, JsonPath]]  # (meter, path of its cost)

_JSON: Final = frozenset({b"application/json", b"text/json"})
_EVENT_STREAM: Final = b"text/event-stream"


class BodyReader:
    """Reads one body. Errors are part of the reading, and never raised.

    When `wanted` is False, further bytes change nothing, and `feed` need not be used.
    """

    __slots__ = ("_body", "_cause", "_decoder", "_fed", "_meters")

    def __init__(
        self,
        paths: Paths,
        body: JsonBody | EventStream | None,
        decoder: Decoder | None = None,
        cause: Unreadable | None = None,
    ) -> None:
        self._meters = [meter for meter, _ in paths]
        self._body = body
        self._decoder = decoder
        self._cause = cause
        self._fed = False

    @property
    def wanted(self) -> bool:
        """Whether more of the body can change the reading."""
        return self._cause is None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, as received (still encoded). Never raises."""
        body = self._body
        if self._cause is not None or body is None or not data:
            return
        self._fed = True
        try:
            if self._decoder is None:
                body.feed(data)
            else:
                for piece in self._decoder.feed(data):
                    body.feed(piece)
        except UnreadableBody as error:
            self._stop(error.cause)
        except MemoryError:
            self._stop(Unreadable.TOO_LARGE)

    def finish(self, *, complete: bool = True) -> Reading:
        """The reading. `complete`: the body reached its end, as HTTP frames it.

        An incomplete body is truncated, unless it is an event stream after `[DONE]`: clients close
        the connection there.
        """
        body, complete = self._body, complete and self._decoded
        if self._cause is None and body is not None and (complete or body.ended):
            reading = body.finish()
        else:
            reading = Reading.failed(self._meters, self._cause or Unreadable.TRUNCATED)
        self._stop(self._cause or Unreadable.TRUNCATED)
        return reading

    @property
    def _decoded(self) -> bool:
        # A body without bytes (a response to HEAD, a 204) is not an incomplete gzip stream.
        return self._decoder is None or self._decoder.finished or not self._fed

    def _stop(self, cause: Unreadable) -> None:
        self._cause = cause
        self._body = self._decoder = None  # frees the memory at once


def reader_for(content_type: bytes, content_encoding: bytes, paths: Paths) -> BodyReader | None:
    """A reader for a body with these headers; None if there are no paths.

    Both are the fields' values, b"" if absent; repeated Content-Encoding is joined by commas.
    The reader reads JSON (application/json, text/json and any +json, RFC 6839) and event streams.
    """
    if not paths:
        return None
    kind = content_type.partition(b";")[0].strip().lower()
    if kind != _EVENT_STREAM and not _is_json(kind):
        return BodyReader(paths, None, cause=Unreadable.NOT_JSON)
    try:
        decoder = decoder_for(content_encoding)
    except UnreadableBody as error:
        return BodyReader(paths, None, cause=error.cause)
    body = EventStream(paths) if kind == _EVENT_STREAM else JsonBody(paths)
    return BodyReader(paths, body, decoder)


def read_request(
    body: bytes,
    content_type: bytes,
    content_encoding: bytes,
    estimates: Sequence[tuple[str, Reserve]],
    *,
    complete: bool = True,
) -> Reading:
    """The costs in a request's JSON, for the meters in `estimates` that have a JSON path.

    `body` is the buffered part of the body, and all of it if `complete`. A meter whose bound is
    smaller than the body is `too_large`; so are all meters of an incomplete body.
    """
    paths = [(m, r.path, r.bound) for m, r in estimates if isinstance(r.path, JsonPath)]
    fitting = [(m, path) for m, path, bound in paths if complete and len(body) <= bound]
    values: dict[str, int | Unreadable] = {m: Unreadable.TOO_LARGE for m, *_ in paths}
    kind = content_type.partition(b";")[0].strip().lower()
    reader = reader_for(content_type if _is_json(kind) else b"", content_encoding, fitting)
    if reader is not None:
        reader.feed(body)
        reading = reader.finish()
        values |= reading.values
        values |= reading.unreadable
    return Reading.of(values)


def _is_json(kind: bytes) -> bool:
    return kind in _JSON or (kind.endswith(b"+json") and b"/" in kind)
