"""The readers of bodies, chosen by Content-Type and Content-Encoding."""

import re
from collections.abc import Sequence
from typing import Final

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.decoding import RATIO, Decoder, decoder_for
from sidecar.bodies.found import MAX_WHOLE, Found
from sidecar.bodies.json_body import JsonBody, JsonLines
from sidecar.bodies.sse import EventStream
from sidecar.core.costs import Reserve, Unreadable
from sidecar.core.json_cost import Formula, JsonCost, Term
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading

Source = JsonPath | Formula | JsonCost
Paths = Sequence[tuple[str, Source]]  # (meter, where its cost is)

_JSON: Final = frozenset({b"application/json", b"text/json"})
_EVENT_STREAM: Final = b"text/event-stream"
# A document per line, by the names in use; stream+json is Cohere's and Spring's.
_LINES: Final = re.compile(
    rb"(?:application|text)/(?:[^;]*[.+])?(?:x-)?"
    rb"(?:ndjson|ldjson|jsonl|json-?lines|json-?stream|json-seq)(?:\+json)?|"
    rb"application/stream\+json"
)
_Body = JsonBody | JsonLines | EventStream


class BodyReader:
    """Reads one body. Errors are part of the reading, and never raised.

    When `wanted` is False, further bytes change nothing, and `feed` need not be used.
    """

    __slots__ = (
        "_body", "_cause", "_decoder", "_defaults", "_fed", "_found", "_meters", "_whole", "size",
    )  # fmt: skip

    def __init__(
        self,
        paths: Paths,
        body: _Body | None,
        decoder: Decoder | None = None,
        cause: Unreadable | None = None,
    ) -> None:
        self._meters = [meter for meter, _ in paths]
        self._defaults = {
            meter: source.missing
            for meter, source in paths
            if isinstance(source, JsonCost) and source.missing is not None
        }
        self._body = body
        self._found = None if body is None else body.found
        self._decoder = decoder
        self._cause = cause
        self._whole = isinstance(body, JsonBody)
        self._fed = False
        self.size = 0  # bytes that have been decoded

    @property
    def wanted(self) -> bool:
        """Whether more of the body can change the reading."""
        return self._cause is None

    @property
    def failed(self) -> bool:
        """Whether the body reports an error."""
        return self._found is not None and self._found.failed

    @property
    def known(self) -> bool:
        """Whether the cost of what has passed is known: nothing passed since it was reported."""
        body = self._body
        return body is not None and (body.ended or body.found.current)

    @property
    def events(self) -> int:
        """The documents of a stream that have passed: events, lines, or items of an array."""
        if self._found is None:
            return 0
        return self._found.items if self._whole else self._found.documents

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, as received (still encoded). Never raises."""
        body = self._body
        if self._cause is not None or body is None or not data:
            return
        try:
            if self._decoder is None:
                self.size += len(data)
                body.feed(data)
            else:
                self._fed = True
                for piece in self._decoder.feed(data):
                    self.size += len(piece)
                    body.feed(piece)
        except UnreadableBody as error:
            self._stop(error.cause)
        except MemoryError:
            self._stop(Unreadable.TOO_LARGE)

    def finish(self, *, complete: bool = True) -> Reading:
        """The reading. `complete`: the body reached its end, as HTTP frames it.

        Of an incomplete body, the values that have passed count. They may be too low, and have a
        reason too, unless the body ended for its reader (`[DONE]`: clients close the connection
        there) or nothing passed since.
        """
        body, complete = self._body, complete and self._decoded
        if self._cause is not None or body is None:
            reading = Reading.failed(self._meters, self._cause or Unreadable.TRUNCATED)
        else:
            reading = self._read(body, complete=complete)
        self._stop(self._cause or Unreadable.TRUNCATED)
        return reading

    def _read(self, body: _Body, *, complete: bool) -> Reading:
        known = self.known or isinstance(body, JsonBody)
        try:
            body.finish(complete=complete)
        except UnreadableBody as error:
            return Reading.failed(self._meters, error.cause)
        if complete or body.ended:
            reading = body.found.reading(Unreadable.MISSING)
            missing = {m for m, why in reading.unreadable.items() if why is Unreadable.MISSING}
            usual = {m: units for m, units in self._defaults.items() if m in missing}
            if not usual or body.found.failed:
                return reading
            unreadable = {m: w for m, w in reading.unreadable.items() if m not in usual}
            return Reading(dict(reading.values) | usual, unreadable)
        reading = body.found.reading(Unreadable.TRUNCATED)
        if known:
            return reading
        doubted = dict.fromkeys(reading.values, Unreadable.TRUNCATED)
        return Reading(reading.values, dict(reading.unreadable) | doubted)

    @property
    def _decoded(self) -> bool:
        # A body without bytes (a response to HEAD, a 204) is not an incomplete gzip stream.
        return self._decoder is None or self._decoder.finished or not self._fed

    def _stop(self, cause: Unreadable) -> None:
        self._cause = cause
        self._body = self._decoder = None  # frees the memory at once


def reader_for(
    content_type: bytes, content_encoding: bytes, paths: Paths, ratio: int = RATIO
) -> BodyReader:
    """A reader for a body with these headers, also of errors alone (without `paths`).

    Both are the fields' values, b"" if absent; repeated Content-Encoding is joined by commas.
    The reader reads JSON (application/json, text/json and any +json, RFC 6839), event streams and
    JSON documents in lines. `ratio`: bytes that a coding may decode to, per byte.
    """
    kind = kind_of(content_type)
    stream = kind == _EVENT_STREAM or _LINES.fullmatch(kind) is not None
    if not stream and not _is_json(kind):
        return BodyReader(paths, None, cause=Unreadable.NOT_JSON)
    try:
        decoder = decoder_for(content_encoding, ratio)
    except UnreadableBody as error:
        return BodyReader(paths, None, cause=error.cause)
    found = Found([(meter, _formula(source, stream=stream)) for meter, source in paths])
    body: _Body
    if not stream:
        body = JsonBody(found)
    elif kind == _EVENT_STREAM:
        body = EventStream(found)
    else:
        body = JsonLines(found)
    return BodyReader(paths, body, decoder)


def read_request(
    body: bytes,
    content_encoding: bytes,
    estimates: Sequence[tuple[str, Reserve]],
    *,
    complete: bool = True,
) -> Reading:
    """The costs in a request's JSON, for the meters in `estimates` that have a JSON path.

    `body` is the buffered part of the body, and all of it if `complete`. A meter whose bound is
    smaller than the body is `too_large`; so are all meters of an incomplete body.

    Any Content-Type will do: many APIs read JSON whatever it says, and curl says that it is a form.
    """
    paths = [(m, r.path, r.bound) for m, r in estimates if isinstance(r.path, JsonPath | Formula)]
    fitting = [one for one in paths if complete and len(body) <= one[2]]
    values: dict[str, int | Unreadable] = {m: Unreadable.TOO_LARGE for m, *_ in paths}
    if fitting:
        most = max(MAX_WHOLE, *(bound for *_, bound in fitting))
        reading = _document_of(body, content_encoding, [(m, path) for m, path, _ in fitting], most)
        values |= reading.values
        values |= reading.unreadable
    return Reading.of(values)


def _document_of(body: bytes, content_encoding: bytes, paths: Paths, most: int) -> Reading:
    """The values in a whole document of at most `most` bytes, after decoding."""
    try:
        decoder = decoder_for(content_encoding)
    except UnreadableBody as error:
        return Reading.failed([meter for meter, _ in paths], error.cause)
    found = Found([(meter, _formula(source, stream=False)) for meter, source in paths])
    reader = BodyReader(paths, JsonBody(found, most), decoder)
    reader.feed(body)
    return reader.finish()


def decoded_size(body: bytes, content_encoding: bytes) -> int | Unreadable:
    """The size of a complete body without its content coding, or why it is not known."""
    size = 0
    try:
        decoder = decoder_for(content_encoding)
        if decoder is None:
            return len(body)
        for piece in decoder.feed(body):
            size += len(piece)
    except UnreadableBody as error:
        return error.cause
    return size if decoder.finished else Unreadable.TRUNCATED


def kind_of(content_type: bytes) -> bytes:
    """The media type of a Content-Type, in lower case, without parameters."""
    return content_type.partition(b";")[0].strip().lower()


def is_multipart(content_type: bytes) -> bool:
    """Whether this Content-Type is a body of several parts."""
    return kind_of(content_type).startswith(b"multipart/")


def _is_json(kind: bytes) -> bool:
    return kind in _JSON or (kind.endswith(b"+json") and b"/" in kind)


def _formula(source: Source, *, stream: bool) -> Formula:
    if isinstance(source, JsonCost):
        return source.stream if stream else source.whole
    if isinstance(source, JsonPath):
        return Formula(source.text, ((Term(1, (source,)),),))
    return source
