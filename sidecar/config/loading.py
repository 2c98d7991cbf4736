"""Load a plan file: the plan book, or every problem at once."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sidecar.config import limit_kinds, positions
from sidecar.config.check import check
from sidecar.config.compile import compile_book
from sidecar.config.draft import partial_draft, whole_draft
from sidecar.config.messages import explain, redacted
from sidecar.config.models import FileModel, LimitModel
from sidecar.config.positions import MAX_BYTES, Document, Finding
from sidecar.config.values import NOT_EXPANDED, has_variable
from sidecar.config.warnings import warnings
from sidecar.core.model import PlanBook
from sidecar.core.text import one_line
from sidecar.errors import ConfigError, Problem

MOST_PROBLEMS: Final = 200


def load(path: Path) -> PlanBook:
    """The plan book of a file. Raises ConfigError if the file is invalid."""
    return read(path)[1]


def read(path: Path) -> tuple[bytes, PlanBook]:
    """The bytes of a file and its plan book. Raises ConfigError if the file is invalid."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)  # some files have no end
    except OSError as error:
        raise ConfigError([Problem(str(path), 0, 0, "", _unreadable(error))]) from None
    return text, parse(text, str(path))


def _unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist; name another"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name another"
    remedy = "name another"
    if isinstance(error, PermissionError):
        remedy = "make it readable for this user, or name another"
    return f"cannot be read: {error.strerror or error}; {remedy}"


def parse(text: bytes, file: str) -> PlanBook:
    """The plan book of a file's bytes; its version is their SHA-256.

    Raises ConfigError if the file is invalid.
    """
    document = positions.read(text, file)
    findings = list(_limit_findings(document.data))
    try:
        model = FileModel.model_validate(document.data)
        draft = whole_draft(model)
    except ValidationError as error:
        findings += _model_findings(error)
        draft = partial_draft(document.data, [path for path, _ in findings])
        model = None
    findings += check(draft)
    problems = _problems(document, findings, file)
    if problems or model is None:
        raise ConfigError(problems)
    book = compile_book(model, "sha256:" + hashlib.sha256(text).hexdigest())
    found = _problems(document, warnings(model, document.data, datetime.now(UTC)), file)
    return replace(book, warnings=tuple(warning.as_warning() for warning in found))


def _limit_findings(data: Any) -> Iterator[Finding]:
    """What is wrong with the kinds of limits, except in limits with unknown keys.

    An unknown key may be the misspelt name of the one that is missing.
    """
    plans = data.get("plans") if isinstance(data, dict) else None
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        limits = plan.get("limits") if isinstance(plan, dict) else None
        for number, limit in enumerate(limits if isinstance(limits, list) else ()):
            if isinstance(limit, dict) and limit.keys() <= LimitModel.model_fields.keys():
                yield from limit_kinds.findings(("plans", name, "limits", number), limit)


def _model_findings(error: ValidationError) -> Iterator[Finding]:
    parts = error.errors(include_url=False)
    inside = {part["loc"][:depth] for part in parts for depth in range(len(part["loc"]))}
    for part in parts:
        if part["type"] == "too_short" and part["loc"] in inside:
            continue  # pydantic dropped the invalid items, which have findings of their own
        yield tuple(step for step in part["loc"] if step != "[key]"), explain(part)


def _problems(document: Document, findings: Iterable[Finding], file: str) -> list[Problem]:
    """The problems in the order of the file: at most `MOST_PROBLEMS`, and a count of the rest.

    A part that could not be read has that problem alone.
    """
    unreadable = {path for _, path, _ in document.unreadable}
    placed = [
        (document.position(path), path, _with_variables(document, path, message))
        for path, message in findings
        if not any(path[:depth] in unreadable for depth in range(len(path) + 1))
    ]
    every = sorted([*document.unreadable, *placed], key=lambda problem: problem[0])
    if len(every) > MOST_PROBLEMS:
        position, _, _ = every[MOST_PROBLEMS]
        rest = f"{len(every) - MOST_PROBLEMS:,} more problems from here on; fix the others first"
        every[MOST_PROBLEMS:] = [(position, (), rest)]
    return [
        Problem(file, *position, one_line(positions.dotted(redacted(path))), one_line(message))
        for position, path, message in every
    ]


def _with_variables(document: Document, path: positions.Path, message: str) -> str:
    """The message, or the cause of the problem if the value has a variable to be replaced."""
    value = document.value(path)
    return NOT_EXPANDED if isinstance(value, str) and has_variable(value) else message
