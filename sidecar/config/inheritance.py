"""Plans that extend others: one walk for everything that a plan inherits."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from sidecar.config.models import PlanModel

_T = TypeVar("_T")


def inherited(
    plans: Mapping[str, PlanModel], root: _T, extended: Callable[[_T, str, PlanModel], _T]
) -> dict[str, _T]:
    """What each plan has, in the order of the file.

    `root`: what a plan without a parent inherits. `extended(parent's, name, model)`: what a plan
    has. It is called once for each plan, however many extend it.
    """
    known: dict[str, _T] = {}
    for name in plans:
        chain = []
        at: str | None = name
        while at is not None and at not in known:
            chain.append(at)
            at = plans[at].extends
        above = root if at is None else known[at]
        for each in reversed(chain):
            above = known[each] = extended(above, each, plans[each])
    return {name: known[name] for name in plans}
