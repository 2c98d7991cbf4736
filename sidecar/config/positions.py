"""Read YAML into plain data, with the position of each part in the file."""

import re
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from sidecar.config.values import NOT_EXPANDED, printable
from sidecar.config.yaml_messages import LINE_BREAK, explain, unreadable
from sidecar.errors import ConfigError, Problem

MAX_BYTES: Final = 10_000_000
MAX_NODES: Final = 500_000  # with aliases followed: stops "billion laughs"
MAX_DEPTH: Final = 32  # libyaml's composer recurses in C: a much deeper file would crash it
LONGEST_SCALAR: Final = 128  # of non-strings: YAML reads 1:1:1:… as one very large number

Path = tuple[str | int, ...]
Finding = tuple[Path, str]  # path, and what is wrong; what to write instead
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.2, production 1 (c-printable); YAML 1.1 says the same.
_NOT_YAML: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG: Final = "tag:yaml.org,2002:"
_STRINGS: Final = {"str", "value", "merge"}  # the last two: = and << as values
_TAGS: Final = {*_STRINGS, "int", "float", "bool", "null", "timestamp", "map", "seq"}


class SourcePosition(NamedTuple):
    """Line and column in a file, both from 1."""

    line: int
    column: int


class Document:
    """The data of one YAML file, and the position of every key and value.

    `unreadable` lists position, path and message of each value that could not be read, for which
    `data` has None.
    """

    def __init__(
        self,
        data: Any,
        positions: dict[Path, SourcePosition],
        unreadable: list[tuple[SourcePosition, Path, str]],
    ) -> None:
        self.data = data
        self.unreadable = unreadable
        self._positions = positions

    def position(self, path: Path) -> SourcePosition:
        """The position of `path`, or of the nearest part above it that is in the file."""
        while path and path not in self._positions:
            path = path[:-1]
        return self._positions.get(path, SourcePosition(1, 1))

    def value(self, path: Path) -> Any:
        """The value at `path`; None if the file has none."""
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def dotted(path: Path) -> str:
    """A path as text, such as plans.free.limits[0].rate."""
    text = ""
    for part in path:
        step = f"[{part}]" if isinstance(part, int) else f".{printable(part)}"
        text += step if text else step.removeprefix(".")
    return text


def read(text: bytes, file: str) -> Document:
    """Parse one document. Raises ConfigError if it has no data that can be checked."""

    def fail(position: SourcePosition, message: str) -> NoReturn:
        raise ConfigError([Problem(file, *position, "", message)])

    if len(text) > MAX_BYTES:
        fail(
            SourcePosition(1, 1),
            f"the file has more than {MAX_BYTES:,} bytes; move accounts to Redis",
        )
    try:
        content = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        fail(_end(before), "the file is not UTF-8 from here on; save it as UTF-8")
    odd = _NOT_YAML.search(content)
    if odd:
        name = f"U+{ord(odd[0]):04X}"
        fail(_end(content[: odd.start()]), f"YAML does not allow the character {name}; remove it")
    try:
        _measure(content)
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            fail(SourcePosition(1, 1), "the file is empty; begin with version: 1")
        walk = _Walk(loader)
        return Document(walk.value(node, ()), walk.positions, walk.unreadable)
    except _TooLarge as error:
        fail(error.position, str(error))
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        fail(_position(at) if at else SourcePosition(1, 1), explain(error, content))


class _TooLarge(Exception):
    def __init__(self, position: SourcePosition, message: str) -> None:
        super().__init__(message)
        self.position = position


def _measure(content: str) -> None:
    """Raise _TooLarge if the file is too deep or too large, before any code recurses into it."""
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=_Loader)):
        if count > 2 * MAX_NODES:
            raise _TooLarge(
                _position(event.start_mark), "the file is too large; move accounts to Redis"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooLarge(
                    _position(event.start_mark),
                    f"this is more than {MAX_DEPTH} levels deep; write at most 6 levels",
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _position(mark: Any) -> SourcePosition:
    return SourcePosition(mark.line + 1, mark.column + 1)


def _end(text: str) -> SourcePosition:
    lines = LINE_BREAK.split(text)
    return SourcePosition(len(lines), len(lines[-1]) + 1)


class _Walk:
    """Conversion of nodes to data. It follows aliases, so it counts nodes: raises _TooLarge."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.positions: dict[Path, SourcePosition] = {}
        self.unreadable: list[tuple[SourcePosition, Path, str]] = []
        self.count = 0

    def report(self, node: Any, path: Path, message: str) -> None:
        self.unreadable.append(
            (self.positions.get(path) or _position(node.start_mark), path, message)
        )

    def value(self, node: Any, path: Path) -> Any:
        self.count += 1
        position = _position(node.start_mark)
        if self.count > MAX_NODES:
            raise _TooLarge(
                position, "the file is too large when its aliases are followed; use fewer aliases"
            )
        if len(path) > MAX_DEPTH:
            raise _TooLarge(position, "aliases lead too deep from here; use fewer aliases")
        self.positions.setdefault(path, position)
        if not node.tag.startswith(_TAG) or node.tag.removeprefix(_TAG) not in _TAGS:
            self.report(
                node, path, "has a tag, which is not supported; remove the word that begins with !"
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: Any, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                message = "a key must be a plain word; use extends to inherit"
                if isinstance(key_node, yaml.MappingNode):  # {{ .Values.quota }}
                    message = NOT_EXPANDED
                self.unreadable.append((_position(key_node.start_mark), path, message))
                continue
            key = str(key_node.value)
            if key in result:
                twice = (_position(key_node.start_mark), (*path, key), "is there twice; remove one")
                self.unreadable.append(twice)
                continue
            self.positions[(*path, key)] = _position(key_node.start_mark)
            result[key] = self.value(value_node, (*path, key))
        return result

    def scalar(self, node: Any, path: Path) -> Any:
        if node.tag.removeprefix(_TAG) in _STRINGS:
            return node.value
        try:
            if len(node.value) <= LONGEST_SCALAR:
                return self.loader.construct_object(node)
        except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError):
            pass  # the tag or the pattern matches, the value does not: 2026-02-30, `!!int ""`
        self.report(node, path, unreadable(node.tag))
        return None
