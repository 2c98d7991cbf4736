"""YAML → plain data, and where in the file each part of it stands."""

from typing import Any, Final

import yaml

from sidecar.errors import ConfigError, Problem

MAX_BYTES: Final = 10_000_000
MAX_NODES: Final = 500_000  # after aliases are followed: stops "billion laughs"
MAX_DEPTH: Final = 64

Path = tuple[str | int, ...]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document:
    """The data of one YAML file, and the line and column of every key and value."""

    def __init__(self, file: str, data: Any, marks: dict[Path, tuple[int, int]]) -> None:
        self.file = file
        self.data = data
        self._marks = marks

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at `path`, or at the nearest part above it that is in the file."""
        at = path
        while at and at not in self._marks:
            at = at[:-1]
        line, column = self._marks.get(at, (1, 1))
        return Problem(self.file, line, column, dotted(path), message)


def dotted(path: Path) -> str:
    """plans.free.limits[0].rate"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(text: bytes, file: str) -> Document:
    """Parse one document. Raises ConfigError."""

    def fail(line: int, column: int, message: str) -> ConfigError:
        return ConfigError([Problem(file, line, column, "", message)])

    if len(text) > MAX_BYTES:
        raise fail(1, 1, f"the file has more than {MAX_BYTES:,} bytes; split off the accounts")
    try:
        loader = _Loader(text.decode("utf-8"))
        node = loader.get_single_node()
    except UnicodeDecodeError:
        raise fail(1, 1, "the file is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = getattr(error, "problem", None) or "cannot be read"
        raise fail(line, column, f"this is not valid YAML: {what}") from None
    except (ValueError, RecursionError):
        raise fail(1, 1, "this is not valid YAML") from None
    if node is None:
        raise fail(1, 1, "the file is empty; start with `version: 1`")
    walk = _Walk(file, loader)
    data = walk.value(node, ())
    if walk.problems:
        raise ConfigError(walk.problems)
    return Document(file, data, walk.marks)


class _Walk:
    def __init__(self, file: str, loader: Any) -> None:
        self.file = file
        self.loader = loader
        self.marks: dict[Path, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def complain(self, node: Any, path: Path, message: str) -> None:
        mark = node.start_mark
        self.problems.append(
            Problem(self.file, mark.line + 1, mark.column + 1, dotted(path), message)
        )

    def value(self, node: Any, path: Path) -> Any:
        self.count += 1
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            if self.count <= MAX_NODES + 1:
                self.complain(node, path, "the file is too large or too deep; use fewer aliases")
                self.count = MAX_NODES + 1
            return None
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: Any, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                self.complain(key_node, path, "keys are plain words; use `extends` to inherit")
                continue
            key = str(key_node.value)
            if key in result:
                self.complain(key_node, (*path, key), "is there twice; remove one of them")
                continue
            start = key_node.start_mark
            self.marks[(*path, key)] = (start.line + 1, start.column + 1)
            result[key] = self.value(value_node, (*path, key))
        return result

    def scalar(self, node: Any, path: Path) -> Any:
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            self.complain(node, path, f"{str(node.value)[:40]!r} cannot be read; put it in quotes")
            return None
