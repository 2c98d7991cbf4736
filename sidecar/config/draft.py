"""The valid parts of a plan file, whether or not its other parts are valid."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from sidecar.config.models import (
    AccountModel,
    AnonymousModel,
    FileModel,
    MeterModel,
    PackModel,
    PlanModel,
    RouteModel,
)
from sidecar.config.positions import Path

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Draft:
    """The parts that can be checked against each other, so that one wrong line hides no other.

    Routes and accounts are keyed by their index in the file. `complete` names the sections that
    are valid as a whole. `known` has the names of all meters and plans, valid or not, because a
    reference to an invalid one is not an error. It lacks a section that cannot be read at all.
    """

    meters: dict[str, MeterModel]
    routes: dict[int, RouteModel]
    plans: dict[str, PlanModel]
    accounts: dict[int, AccountModel]
    packs: dict[str, PackModel]
    anonymous: AnonymousModel | None
    complete: Collection[str]
    known: Mapping[str, Collection[str]]

    def lacks(self, section: str, name: str) -> bool:
        """Whether the file is known to have no such meter or plan."""
        return section in self.known and name not in self.known[section]


def whole_draft(file: FileModel) -> Draft:
    """The draft of a file whose parts are all valid."""
    return Draft(
        file.meters,
        dict(enumerate(file.routes)),
        file.plans,
        dict(enumerate(file.accounts)),
        file.packs,
        file.anonymous,
        FileModel.model_fields.keys(),
        {"meters": file.meters, "plans": file.plans},
    )


def partial_draft(data: Any, invalid: Collection[Path]) -> Draft:
    """The draft of a file that has an error at each of the `invalid` paths."""
    sections: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    affected = {path[:depth] for path in invalid for depth in (1, 2)}

    def valid_parts(section: str, model: type[Model]) -> dict[Any, Model]:
        return {
            name: model.model_validate(part)
            for name, part in _parts(sections.get(section))
            if (section, name) not in affected and (section,) not in invalid
        }

    return Draft(
        valid_parts("meters", MeterModel),
        valid_parts("routes", RouteModel),
        valid_parts("plans", PlanModel),
        valid_parts("accounts", AccountModel),
        valid_parts("packs", PackModel),
        AnonymousModel.model_validate(sections["anonymous"])
        if sections.get("anonymous") is not None and ("anonymous",) not in affected
        else None,
        {section for section in FileModel.model_fields if (section,) not in affected},
        {
            section: sections[section].keys()
            for section in ("meters", "plans")
            if isinstance(sections.get(section), Mapping)
        },
    )


def _parts(section: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(section, Mapping):
        return iter(section.items())
    return iter(enumerate(section)) if isinstance(section, list) else iter(())
