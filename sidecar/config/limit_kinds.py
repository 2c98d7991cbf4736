"""What the keys of one limit say of each other: it is of one kind, and some keys are for one only.

Looks at the limit as it is written, so that it tells of this even where a value is wrong too.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.config import values
from sidecar.config.positions import Finding, Path

KINDS: Final = ("rate", "quota", "concurrency")
BELONGS: Final[dict[str, tuple[str, ...]]] = {
    "burst": ("rate",), "at": ("quota",), "rollover": ("quota",), "meter": ("rate", "quota"),
    "max_wait": ("rate", "concurrency"),
}  # fmt: skip
STEPS: Final = ("notice", "overage", "reject")


def findings(here: Path, limit: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the limit at `here`; what to write instead."""
    has = [kind for kind in KINDS if limit.get(kind) is not None]
    if len(has) != 1:
        yield here, f"has to be one of {', '.join(KINDS)}; write one of them"
    elif limit.get("meter") is None and has != ["concurrency"]:
        yield here, "does not say what it counts; add meter: requests, or another one"
    for key, homes in BELONGS.items():
        if limit.get(key) is not None and has and not set(homes) & set(has):
            home = " or a ".join(homes)
            yield (*here, key), f"belongs to a {home}; remove it from this {has[0]}"
    steps = _steps(limit.get("at"))
    if steps:
        yield from _misplaced((*here, "at"), steps)


def behaviour(at: Mapping[str, str] | None) -> tuple[tuple[int, ...], int | None]:
    """(notice percentages, percentage at which calls are refused; None: never), of a sound `at`."""
    steps = _steps(at)
    notices = tuple(sorted(percent for percent, (_, what) in steps.items() if what == "notice"))
    reject = [percent for percent, (_, what) in steps.items() if what == "reject"]
    overage = any(what == "overage" for _, what in steps.values())
    return notices, reject[0] if reject else None if overage else 100


def _steps(at: object) -> dict[int, tuple[str, str]]:
    """Percent → (as it is written, what happens). Empty when a part of it cannot be read: that
    is told where it is read."""
    if not isinstance(at, Mapping) or not all(step in STEPS for step in at.values()):
        return {}
    try:
        return {values.percent(text): (text, step) for text, step in at.items()}
    except ValueError:
        return {}


def _misplaced(at: Path, steps: dict[int, tuple[str, str]]) -> Iterator[Finding]:
    overage = [percent for percent, (_, step) in steps.items() if step == "overage"]
    reject = [percent for percent, (_, step) in steps.items() if step == "reject"]
    for percent in overage:
        if percent != 100:
            yield (*at, steps[percent][0]), "overage begins at 100%; write 100%: overage"
    caps = [percent for percent in reject if percent >= 100]
    for percent in reject:
        here = (*at, steps[percent][0])
        if percent < 100:
            yield here, "reject stands at 100% or above; lower the quota instead"
        elif percent != caps[0]:
            yield here, f"reject is there twice; keep this one or {caps[0]}%: reject"
        elif percent > 100 and not overage:
            yield here, "a reject above 100% needs 100%: overage; add it"


def schema(limit: dict[str, Any]) -> None:
    """Says in a limit's JSON Schema what JSON Schema can say of this."""
    limit["oneOf"] = [
        {"required": [kind] if kind == "concurrency" else [kind, "meter"]} for kind in KINDS
    ]
    limit["dependentSchemas"] = {
        key: {"anyOf": [{"required": [home]} for home in homes]} for key, homes in BELONGS.items()
    }
    limit["properties"]["id"]["not"] = {"const": "critical"}
    steps = {"^[0-9]{1,2}%$": {"const": "notice"}, "^(?!100%)": {"not": {"const": "overage"}}}
    limit["properties"]["at"]["allOf"] = [{"patternProperties": steps}]
