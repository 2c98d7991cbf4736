"""The kinds of limits: which keys go together, and in which order thresholds may be.

This reads a limit as it is written, so a wrong value elsewhere in it hides no finding.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.config import values
from sidecar.config.positions import Finding, Path

KINDS: Final = ("rate", "quota", "concurrency")
KINDS_WITH: Final[dict[str, tuple[str, ...]]] = {
    "burst": ("rate",), "at": ("quota",), "rollover": ("quota",), "meter": ("rate", "quota"),
    "max_wait": ("rate", "concurrency"),
}  # fmt: skip
ACTIONS: Final = ("notice", "overage", "reject")


def findings(path: Path, limit: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the limit at `path`; what to write instead."""
    kinds = [kind for kind in KINDS if limit.get(kind) is not None]
    if len(kinds) != 1:
        yield path, f"must have exactly one of {', '.join(KINDS)}; write one of them"
    elif limit.get("meter") is None and kinds != ["concurrency"]:
        yield path, "has no meter; add meter: requests, or another one"
    for key, allowed in KINDS_WITH.items():
        if limit.get(key) is not None and kinds and not set(allowed) & set(kinds):
            expected = " or a ".join(allowed)
            yield (*path, key), f"belongs to a {expected}; remove it from this {kinds[0]}"
    steps = _steps(limit.get("at"))
    if steps:
        yield from _step_findings((*path, "at"), steps)


def thresholds(at: Mapping[str, str] | None) -> tuple[tuple[int, ...], int | None]:
    """The notice percentages and the percentage at which requests are refused, of a valid `at`.

    None for the latter: no request is refused, because overage has no cap.
    """
    steps = _steps(at)
    notices = tuple(sorted(percent for percent, (_, action) in steps.items() if action == "notice"))
    reject = [percent for percent, (_, action) in steps.items() if action == "reject"]
    overage = any(action == "overage" for _, action in steps.values())
    return notices, reject[0] if reject else None if overage else 100


def _steps(at: object) -> dict[int, tuple[str, str]]:
    """Percent → (its text, its action). Empty if a part is invalid: the models report that."""
    if not isinstance(at, Mapping) or not all(action in ACTIONS for action in at.values()):
        return {}
    try:
        return {values.percent(text): (text, action) for text, action in at.items()}
    except ValueError:
        return {}


def _step_findings(at: Path, steps: dict[int, tuple[str, str]]) -> Iterator[Finding]:
    overage = [percent for percent, (_, action) in steps.items() if action == "overage"]
    reject = [percent for percent, (_, action) in steps.items() if action == "reject"]
    for percent in overage:
        if percent != 100:
            yield (*at, steps[percent][0]), "overage begins at 100%; write 100%: overage"
    caps = [percent for percent in reject if percent >= 100]
    for percent in reject:
        path = (*at, steps[percent][0])
        if percent < 100:
            yield path, "reject must be at 100% or above; lower the quota instead"
        elif percent != caps[0]:
            yield path, f"reject is there twice; keep this one or {caps[0]}%: reject"
        elif percent > 100 and not overage:
            yield path, "a reject above 100% needs 100%: overage; add 100%: overage"


def add_rules_to_schema(limit: dict[str, Any]) -> None:
    """Add these rules to the JSON Schema of a limit, as far as JSON Schema can express them."""
    limit["oneOf"] = [
        {"required": [kind] if kind == "concurrency" else [kind, "meter"]} for kind in KINDS
    ]
    limit["dependentSchemas"] = {
        key: {"anyOf": [{"required": [kind]} for kind in kinds]}
        for key, kinds in KINDS_WITH.items()
    }
    limit["properties"]["id"]["not"] = {"const": "critical"}
    steps = {"^[0-9]{1,2}%$": {"const": "notice"}, "^(?!100%)": {"not": {"const": "overage"}}}
    limit["properties"]["at"]["allOf"] = [{"patternProperties": steps}]
