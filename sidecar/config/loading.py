"""plans.yaml → plan book, or every problem in it at once."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sidecar.config import limit_kinds, positions
from sidecar.config.check import check
from sidecar.config.compile import compile_book
from sidecar.config.draft import draft_of, what_stands
from sidecar.config.messages import explain, public
from sidecar.config.models import FileModel, LimitModel
from sidecar.config.positions import MAX_BYTES, Document, Finding
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError, Problem

MOST_PROBLEMS: Final = 200


def load(path: Path) -> PlanBook:
    """The plan book of a file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)  # some files have no end
    except OSError as error:
        why = error.strerror or "cannot be read"
        message = f"{why}; name a plan file that can be read"
        raise ConfigError([Problem(str(path), 1, 1, "", message)]) from None
    return parse(text, str(path))


def parse(text: bytes, file: str) -> PlanBook:
    """The plan book of a file's bytes; its version is their SHA-256. Raises ConfigError."""
    document = positions.read(text, file)
    found = list(_kinds(document.data))
    try:
        model = FileModel.model_validate(document.data)
        draft = draft_of(model)
    except ValidationError as error:
        found += _explained(error)
        draft = what_stands(document.data, [path for path, _ in found])
        model = None
    found += check(draft)
    problems = _problems(document, found, file)
    if problems or model is None:
        raise ConfigError(problems)
    return compile_book(model, "sha256:" + hashlib.sha256(text).hexdigest())


def _kinds(data: Any) -> Iterator[Finding]:
    """What is wrong with the limits as they are written. One with an unknown key waits: that may be
    the misspelt name of what it lacks."""
    plans = data.get("plans") if isinstance(data, dict) else None
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        limits = plan.get("limits") if isinstance(plan, dict) else None
        for number, limit in enumerate(limits if isinstance(limits, list) else ()):
            if isinstance(limit, dict) and limit.keys() <= LimitModel.model_fields.keys():
                yield from limit_kinds.findings(("plans", name, "limits", number), limit)


def _explained(error: ValidationError) -> Iterator[Finding]:
    parts = error.errors(include_url=False)
    inside = {part["loc"][:depth] for part in parts for depth in range(len(part["loc"]))}
    for part in parts:
        if part["type"] == "too_short" and part["loc"] in inside:
            continue  # pydantic left out the items that are wrong in themselves
        yield tuple(step for step in part["loc"] if step != "[key]"), explain(part)


def _problems(document: Document, found: Iterable[Finding], file: str) -> list[Problem]:
    """In the order of the file: not again what could not be read, nor more than anybody reads."""
    unread = {path for _, path, _ in document.unread}
    placed = [
        (document.mark(path), path, message)
        for path, message in found
        if not any(path[:depth] in unread for depth in range(len(path) + 1))
    ]
    every = sorted([*document.unread, *placed], key=lambda one: one[0])
    if len(every) > MOST_PROBLEMS:
        mark, _, _ = every[MOST_PROBLEMS]
        rest = f"{len(every) - MOST_PROBLEMS:,} more problems from here on; repair the others first"
        every[MOST_PROBLEMS:] = [(mark, (), rest)]
    return [
        Problem(file, *mark, positions.dotted(public(path)), message)
        for mark, path, message in every
    ]
