"""The parts of a file that are sound in themselves, whatever its other parts are like."""

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
    """What can be held against each other, so that one wrong line hides no other.

    Routes and accounts have the number of their place in the file. `complete` names the sections
    that are sound as a whole. `known` has the names of all meters and plans, sound or not: to
    refer to one that is not is no mistake. It lacks a section that cannot be read at all.
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


def draft_of(file: FileModel) -> Draft:
    """Of a file in which everything is sound in itself."""
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


def what_stands(data: Any, wrong: Collection[Path]) -> Draft:
    """Of a file in which something is wrong at each of these paths."""
    sections: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    spoiled = {path[:depth] for path in wrong for depth in (1, 2)}

    def sound(section: str, model: type[Model]) -> dict[Any, Model]:
        return {
            name: model.model_validate(part)
            for name, part in _parts(sections.get(section))
            if (section, name) not in spoiled and (section,) not in wrong
        }

    return Draft(
        sound("meters", MeterModel),
        sound("routes", RouteModel),
        sound("plans", PlanModel),
        sound("accounts", AccountModel),
        sound("packs", PackModel),
        AnonymousModel.model_validate(sections["anonymous"])
        if sections.get("anonymous") is not None and ("anonymous",) not in spoiled
        else None,
        {section for section in FileModel.model_fields if (section,) not in spoiled},
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
