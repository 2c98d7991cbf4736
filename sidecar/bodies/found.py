"""The values at the paths of costs, in one document after the other."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.lax_json import parse
from sidecar.bodies.scanner import Scanner
from sidecar.core.costs import Unreadable
from sidecar.core.json_cost import Formula
from sidecar.core.json_path import LENGTH, JsonPath
from sidecar.core.readings import Reading, whole_units

MAX_WHOLE: Final = 1 << 18  # bytes of a document that are kept; longer ones are scanned
# What makes a document worth parsing that has no value: errors, ends, and escaped names.
_OTHERS: Final = (b'"error"', b'"message_stop"', b"\\u")


class Found:
    """The latest value at each path, in the documents of one body.

    `items`: of those documents that are arrays. `failed`: a document was an error; the values
    before it do not count. `current`: the last document had a value, so that nothing has passed
    since. `ended`: a document was the last one, by its type.
    """

    def __init__(self, costs: Sequence[tuple[str, Formula]]) -> None:
        self._costs = costs
        paths = {path.text: path for _, formula in costs for path in formula.paths}
        self.paths = tuple(paths.values())
        self._in_items = tuple(path for path in self.paths if not _is_index(path.steps[0]))
        names = [_last_name(path) for path in self.paths]
        self._always = not all(names)
        self._hints = (*[name for name in names if name], *_OTHERS)
        self.values: dict[str, int | Unreadable] = {}
        self.documents = 0
        self.items = 0
        self.failed = False
        self.current = False
        self.ended = False

    def may_have(self, data: bytes) -> bool:
        """Whether a document, as JSON, can have a value or be an error."""
        return self._always or any(hint in data for hint in self._hints)

    def take_document(self, document: Any) -> None:
        """Read a parsed document. An array's items are documents too, for paths of names."""
        self.documents += 1
        values: dict[str, int | Unreadable] = {}
        error = False
        if isinstance(document, list):
            self.items += len(document)
            for item in document:
                if isinstance(item, dict):
                    error = is_error(item) or error
                    _read(item, self._in_items, values)
        else:
            error = is_error(document)
            if isinstance(document, dict) and document.get("type") == "message_stop":
                self.ended = True  # Anthropic
        _read(document, self.paths, values)
        self.take(values, error=error)

    def take(self, values: Mapping[str, int | Unreadable], *, error: bool) -> None:
        """Take the values of one document."""
        if error:
            self.failed = True
            self.values.clear()
        self.values.update(values)
        self.current = bool(values)

    def skip(self) -> None:
        """Take a document that has no value."""
        self.documents += 1
        self.current = False

    def reading(self, why: Unreadable) -> Reading:
        """The costs; `why`: the reason why a value is missing."""
        costs: dict[str, int | Unreadable] = {}
        for meter, formula in self._costs:
            cost = formula.evaluate(self.values)
            costs[meter] = why if cost is Unreadable.MISSING else cost
        return Reading.of(costs)


class Document:
    """One JSON document in pieces: kept and parsed if it is short, else scanned.

    With `most`, a document of more bytes is too large: scanning takes far longer than parsing, and
    a client that sends one would delay all others.
    """

    def __init__(self, found: Found, most: int | None = None) -> None:
        self._found = found
        self._most = most
        self._kept: list[bytes] = []
        self._size = 0
        self._scanner: Scanner | None = None
        self.broken = False  # it is not JSON, and further bytes change nothing

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises UnreadableBody if they cannot be JSON, once."""
        if self.broken:
            return
        if self._scanner is not None:
            self._scanner.feed(data)
            return
        self._kept.append(data)
        self._size += len(data)
        if self._most is not None:
            if self._size > self._most:
                raise UnreadableBody(Unreadable.TOO_LARGE)
        elif self._size > MAX_WHOLE:
            self._scan()

    def _scan(self) -> Scanner:
        if self._scanner is None:
            self._scanner = Scanner(self._found.paths)
            kept, self._kept = b"".join(self._kept), []
            self._scanner.feed(kept.removeprefix(b"\xef\xbb\xbf"))
        return self._scanner

    def end(self) -> None:
        """Take the values of a complete document. Raises UnreadableBody."""
        if self.broken:
            raise UnreadableBody(Unreadable.NOT_JSON)
        if self._scanner is not None:
            self._scanner.finish()
            self._found.documents += 1
            self._found.items += self._scanner.items
            self._found.take(self._scanner.values, error=self._scanner.error)
            return
        try:
            document = parse(b"".join(self._kept))
        except ValueError:
            raise UnreadableBody(Unreadable.NOT_JSON) from None
        self._found.take_document(document)

    def cut(self) -> None:
        """Take the values of a document that ends early: those that are complete."""
        try:
            scanner = self._scan()
        except UnreadableBody:
            return
        self._found.items += scanner.items
        self._found.take(scanner.values, error=scanner.error)


def is_error(document: Any) -> bool:
    """Whether a document reports that the request failed.

    OpenAI, Anthropic, Gemini and Ollama send a member `error`, or a `type` of "error".
    """
    if not isinstance(document, dict):
        return False
    if _is_set(document.get("error")) or document.get("type") == "error":
        return True
    response = document.get("response")
    return isinstance(response, dict) and _is_set(response.get("error"))


def _is_set(value: Any) -> bool:
    return isinstance(value, dict | list) or bool(value)


def _read(document: Any, paths: Sequence[JsonPath], values: dict[str, int | Unreadable]) -> None:
    for path in paths:
        value = path.find(document)
        if value is not None:
            values[path.text] = whole_units(value)


def _is_index(step: str) -> bool:
    return step == LENGTH or step.isdecimal()


def _last_name(path: JsonPath) -> bytes | None:
    """The JSON name without which a document cannot have the value."""
    names = [step for step in path.steps if not _is_index(step)]
    return b'"%s"' % names[-1].encode() if names else None
