"""Parts of a manifest, checked as they are read. A manifest is untrusted text.

A place is where a part is, such as `shop.yaml: Deployment shop: spec.template`.
"""

from collections.abc import Iterator
from typing import Any, Final

from sidecar.errors import ManifestError

Object = dict[str, Any]
LONGEST: Final = 80  # of a value in a message


def at(place: str, *keys: str | int) -> str:
    """The place of a part within `place`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    separator = "." if place.rpartition(": ")[2].startswith(("spec", "metadata")) else ": "
    return f"{place}{separator}{text}" if text else place


def mapping(parent: Object, key: str, place: str) -> Object:
    """The mapping at `key`, empty if the key is missing. Raises ManifestError."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ManifestError(f"{at(place, key)}: is not a mapping; write KEY: VALUE pairs")
    return value


def items(parent: Object, key: str, place: str) -> list[Object]:
    """The mappings in the list at `key`, empty if the key is missing. Raises ManifestError."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ManifestError(f"{at(place, key)}: is not a list of mappings; begin each with -")
    return value


def text(parent: Object, key: str, place: str) -> str:
    """The string at `key`, not empty. Raises ManifestError."""
    value = parent.get(key)
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{at(place, key)}: is not a string; write one")
    return value


def annotations(parent: Object, place: str) -> dict[str, str]:
    """The annotations of an object or a pod template. Raises ManifestError."""
    metadata = mapping(parent, "metadata", place)
    found = mapping(metadata, "annotations", at(place, "metadata"))
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            where = at(place, "metadata", "annotations", str(name))
            raise ManifestError(f"{where}: is not a string; put it in quotes")
    return found


def containers(spec: Object, place: str) -> Iterator[tuple[str, int, Object]]:
    """Every container of a pod: the key of its list, its index, itself. Raises ManifestError."""
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(items(spec, key, place)):
            text(container, "name", at(place, key, index))
            yield key, index, container


def quoted(value: object) -> str:
    """A value of a manifest in quotes, cut to LONGEST characters."""
    shown = str(value)
    return f'"{shown}"' if len(shown) <= LONGEST else f'"{shown[:LONGEST]}…"'
