"""Manifests as text: YAML with several documents, or JSON, which is YAML too.

Comments are lost; the order of keys stays.
"""

import re
from typing import Any, Final

import yaml

from sidecar.errors import ManifestError
from sidecar.kubernetes import scalars
from sidecar.kubernetes.parts import Object

MAX_BYTES: Final = 8_000_000
MAX_NODES: Final = 400_000  # with aliases followed: stops "billion laughs"
MAX_DEPTH: Final = 64  # libyaml's composer recurses in C
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = _TAG + "merge"
# YAML 1.2, production 1 (c-printable).
_NOT_YAML: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(content: bytes, file: str) -> list[Object]:
    """The documents of a manifest, without empty ones. Raises ManifestError."""
    if len(content) > MAX_BYTES:
        raise ManifestError(f"{file}: has more than {MAX_BYTES:,} bytes; split it")
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(f"{file}: is not UTF-8; save it as UTF-8") from None
    odd = _NOT_YAML.search(decoded)
    if odd:
        line = decoded.count("\n", 0, odd.start()) + 1
        raise ManifestError(
            f"{file}:{line}: YAML does not allow the character U+{ord(odd[0]):04X}; remove it"
        )
    try:
        _measure(decoded, file)
        nodes = list(yaml.compose_all(decoded, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ManifestError(_explain(error, file)) from None
    walk = _Walk(file)
    documents = [walk.value(node, 0) for node in nodes]
    return [walk.checked(one, node) for one, node in zip(documents, nodes, strict=True) if one]


def write(documents: list[Object]) -> str:
    """The documents as YAML. Strings that a reader of YAML might take for a number are quoted."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20,
        default_flow_style=False, explicit_start=len(documents) > 1,
    )  # fmt: skip


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader of nodes, whose plain scalars have no type yet."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class says so


def _measure(content: str, file: str) -> None:
    """Raise ManifestError if the file is too deep or too large; code recurses into it later."""
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=_Loader)):
        line = getattr(event.start_mark, "line", 0) + 1
        if count > 2 * MAX_NODES:
            raise ManifestError(f"{file}:{line}: the file is too large; split it")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ManifestError(f"{file}:{line}: more than {MAX_DEPTH} levels; remove some")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Walk:
    """Conversion of nodes to data. It follows aliases, so it counts nodes."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._count = 0

    def value(self, node: Any, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise self._problem(node, "the file is too large with its aliases; use fewer aliases")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if node is None:
            return None
        if node.tag not in (_TAG + "str", "!"):
            raise self._problem(node, "has a tag; remove the word that begins with !")
        return node.value if node.style else scalars.read(node.value)

    def _mapping(self, node: Any, depth: int) -> Object:
        result: Object = {}
        merged: Object = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._problem(key_node, "is not a key; put a value with { } in quotes")
            key = key_node.value
            value = self.value(value_node, depth + 1)
            if key == "<<" and not key_node.style:
                merged = self._merge(value, value_node) | merged
            elif key in result:
                raise self._problem(key_node, f"the key {key} is there twice; remove one")
            else:
                result[key] = value
        return merged | result

    def _merge(self, value: Any, node: Any) -> Object:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self._problem(node, "<< needs a mapping; write an alias of one")
        merged: Object = {}
        for part in reversed(parts):
            merged |= part
        return merged

    def checked(self, document: Any, node: Any) -> Object:
        """The document. Raises ManifestError if it is not a mapping."""
        if not isinstance(document, dict):
            raise self._problem(node, "is not a Kubernetes object; begin with apiVersion and kind")
        return document

    def _problem(self, node: Any, message: str) -> ManifestError:
        mark = node.start_mark
        return ManifestError(f"{self._file}:{mark.line + 1}:{mark.column + 1}: {message}")


def _explain(error: yaml.YAMLError, file: str) -> str:
    mark = getattr(error, "problem_mark", None)
    position = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or "cannot be read"
    return f"{file}{position}: not valid YAML: {problem}; correct it"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A dumper that quotes what Kubernetes or YAML 1.1 would not read as a string."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - a parameter of the base class
        return True

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        plain = kind is yaml.ScalarNode and implicit[0]
        if plain and tag == _TAG + "str" and not isinstance(scalars.read(value), str):
            return _TAG + "other"
        return tag


def _represent_string(dumper: Any, value: str) -> Any:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar(_TAG + "str", value, style=style)


_Dumper.add_representer(str, _represent_string)
