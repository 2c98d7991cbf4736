"""plans.yaml → plan book, or every problem in it at once."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sidecar.config.check import check
from sidecar.config.compile import compile_book
from sidecar.config.models import FileModel
from sidecar.config.positions import Document, read
from sidecar.config.problems import explain
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError, Problem


def load(path: Path) -> PlanBook:
    """The plan book of a file. Raises ConfigError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        why = error.strerror or "cannot be read"
        message = f"{why}; name a plan file that can be read"
        raise ConfigError([Problem(str(path), 1, 1, "", message)]) from None
    return parse(text, str(path))


def parse(text: bytes, file: str) -> PlanBook:
    """The plan book of a file's bytes; its version is their SHA-256. Raises ConfigError."""
    document = read(text, file)
    try:
        model = FileModel.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(_problems(error, document)) from None
    found = [document.problem(path, message) for path, message in check(model)]
    if found:
        raise ConfigError(sorted(found, key=_place))
    return compile_book(model, "sha256:" + hashlib.sha256(text).hexdigest())


def schema() -> dict[str, Any]:
    """The plan file's JSON Schema (draft 2020-12), so that editors complete and check."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Quota Sidecar plan file",
        **FileModel.model_json_schema(by_alias=True),
    }


def _problems(error: ValidationError, document: Document) -> list[Problem]:
    found = []
    parts = error.errors()
    for part in parts:
        if part["type"] == "too_short" and any(
            _inside(part["loc"], other["loc"]) for other in parts
        ):
            continue  # pydantic left out the items that are wrong in themselves
        path = tuple(step for step in part["loc"] if step != "[key]")
        given = part["input"] if part["type"] != "missing" else None
        found.append(document.problem(path, explain(part, given)))
    return sorted(found, key=_place)


def _inside(outer: tuple[str | int, ...], inner: tuple[str | int, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column
