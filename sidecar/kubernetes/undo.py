"""What `uninject` restores in a pod: a record in an annotation, which people may have edited."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sidecar.errors import ManifestError
from sidecar.kubernetes.names import ORIGINAL

_KEYS: Final = {"name": str, "hostPort": int, "hostIP": str}


@dataclass(frozen=True, slots=True)
class Undo:
    """What the sidecar changed in a pod, in addition to its own container and volumes.

    `container` and `port`: of the API. `moved`: fields of that port that the sidecar has now.
    `renamed`: probes and hooks with the port's number in place of its name. `grace`: the grace
    period before and after; before: None for the default. `stop_delay`: of the API's new preStop
    hook, or None. `made`: parts that were missing.
    """

    container: str
    port: int
    moved: dict[str, Any] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    grace: list[int | None] | None = None
    stop_delay: int | None = None
    made: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)


def read_undo(annotations: dict[str, str], place: str) -> Undo:
    """The record of a pod. Raises ManifestError if it is missing or damaged."""
    try:
        value = json.loads(annotations.get(ORIGINAL, ""))
        undo = Undo(**value)
        sound = _is_sound(undo)
    except (ValueError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise ManifestError(
            f"{place}.metadata.annotations: {ORIGINAL} is missing or damaged; restore the "
            "manifest from before sidecar inject"
        )
    return undo


def _is_sound(undo: Undo) -> bool:
    grace = undo.grace
    return (
        isinstance(undo.container, str)
        and type(undo.port) is int
        and isinstance(undo.moved, dict)
        and all(type(value) is _KEYS.get(key) for key, value in undo.moved.items())
        and _are_strings(undo.renamed)
        and _are_strings(undo.made)
        and (grace is None or (isinstance(grace, list) and len(grace) == 2 and _are_numbers(grace)))
        and (undo.stop_delay is None or type(undo.stop_delay) is int)
    )


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _are_numbers(value: list[Any]) -> bool:
    return all(one is None or type(one) is int for one in value)
