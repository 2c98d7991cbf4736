"""YAML → plain data, and where in the file each part of it stands."""

import re
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from sidecar.config.values import printable
from sidecar.config.yaml_messages import in_words, unreadable
from sidecar.errors import ConfigError, Problem

MAX_BYTES: Final = 10_000_000
MAX_NODES: Final = 500_000  # after aliases are followed: stops "billion laughs"
MAX_DEPTH: Final = 32  # libyaml's composer recurses in C: much deeper, and the process is gone
LONGEST_SCALAR: Final = 128  # of what is not text: YAML reads 1:1:1:… as one very large number

Path = tuple[str | int, ...]
Finding = tuple[Path, str]  # where, and what is wrong; what to write instead
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.2, production 1 (c-printable); YAML 1.1 says the same.
_NO_YAML: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG: Final = "tag:yaml.org,2002:"
_TEXT: Final = {"str", "value", "merge"}  # the last two are = and <<, where they are values
_TAGS: Final = {*_TEXT, "int", "float", "bool", "null", "timestamp", "map", "seq"}


class SourcePosition(NamedTuple):
    """A place in the file, from 1."""

    line: int
    column: int


class Document:
    """The data of one YAML file, the place of every key and value, and what could not be read.

    What could not be read is None in `data`.
    """

    def __init__(
        self,
        data: Any,
        marks: dict[Path, SourcePosition],
        unread: list[tuple[SourcePosition, Path, str]],
    ) -> None:
        self.data = data
        self.unread = unread
        self._marks = marks

    def mark(self, path: Path) -> SourcePosition:
        """Where `path` stands, or the nearest part above it that is in the file."""
        while path and path not in self._marks:
            path = path[:-1]
        return self._marks.get(path, SourcePosition(1, 1))


def dotted(path: Path) -> str:
    """plans.free.limits[0].rate"""
    text = ""
    for part in path:
        step = f"[{part}]" if isinstance(part, int) else f".{printable(part)}"
        text += step if text else step.removeprefix(".")
    return text


def read(text: bytes, file: str) -> Document:
    """Parse one document. Raises ConfigError for a file that has no data that could be checked."""

    def fail(mark: SourcePosition, message: str) -> NoReturn:
        raise ConfigError([Problem(file, *mark, "", message)])

    if len(text) > MAX_BYTES:
        fail(
            SourcePosition(1, 1),
            f"the file has more than {MAX_BYTES:,} bytes; split off the accounts",
        )
    try:
        content = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        fail(_end(before), "this is not UTF-8; save the file as UTF-8")
    odd = _NO_YAML.search(content)
    if odd:
        name = f"U+{ord(odd[0]):04X}"
        fail(_end(content[: odd.start()]), f"YAML allows no character {name}; remove it")
    try:
        _measure(content)
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            fail(SourcePosition(1, 1), "the file is empty; start with `version: 1`")
        walk = _Walk(loader)
        return Document(walk.value(node, ()), walk.marks, walk.unread)
    except _TooMuch as error:
        fail(error.mark, str(error))
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        fail(_mark(at) if at else SourcePosition(1, 1), in_words(error, content))


class _TooMuch(Exception):
    def __init__(self, mark: SourcePosition, message: str) -> None:
        super().__init__(message)
        self.mark = mark


def _measure(content: str) -> None:
    """Raises _TooMuch where the file gets too deep or too large, before anything recurses."""
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=_Loader)):
        if count > 2 * MAX_NODES:
            raise _TooMuch(_mark(event.start_mark), "the file is too large; split off the accounts")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooMuch(
                    _mark(event.start_mark),
                    f"this is more than {MAX_DEPTH} levels deep; a plan file needs no more than 6",
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _mark(mark: Any) -> SourcePosition:
    return SourcePosition(mark.line + 1, mark.column + 1)


def _end(text: str) -> SourcePosition:
    return SourcePosition(text.count("\n") + 1, len(text) - text.rfind("\n"))


class _Walk:
    """Nodes → data. Follows aliases, so it counts what it sees. Raises _TooMuch."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.marks: dict[Path, SourcePosition] = {}
        self.unread: list[tuple[SourcePosition, Path, str]] = []
        self.count = 0

    def complain(self, node: Any, path: Path, message: str) -> None:
        self.unread.append((self.marks.get(path) or _mark(node.start_mark), path, message))

    def value(self, node: Any, path: Path) -> Any:
        self.count += 1
        mark = _mark(node.start_mark)
        if self.count > MAX_NODES:
            raise _TooMuch(mark, "the file is too large with its aliases followed; use fewer")
        if len(path) > MAX_DEPTH:
            raise _TooMuch(mark, "aliases lead too deep from here; use fewer")
        self.marks.setdefault(path, mark)
        if not node.tag.startswith(_TAG) or node.tag.removeprefix(_TAG) not in _TAGS:
            self.complain(node, path, "has a tag, which is not read; remove what begins with !")
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
                odd = "keys are plain words; use `extends` to inherit"
                self.unread.append((_mark(key_node.start_mark), path, odd))
                continue
            key = str(key_node.value)
            if key in result:
                again = (_mark(key_node.start_mark), (*path, key), "is there twice; remove one")
                self.unread.append(again)
                continue
            self.marks[(*path, key)] = _mark(key_node.start_mark)
            result[key] = self.value(value_node, (*path, key))
        return result

    def scalar(self, node: Any, path: Path) -> Any:
        if node.tag.removeprefix(_TAG) in _TEXT:
            return node.value
        try:
            if len(node.value) <= LONGEST_SCALAR:
                return self.loader.construct_object(node)
        except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError):
            pass  # what a tag claims or a pattern let through: 2026-02-30, `!!int ""`
        self.complain(node, path, unreadable(node.tag))
        return None
