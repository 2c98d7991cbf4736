"""Counters are raised to what the events tell of.

Never too high: what may have been counted elsewhere, or may be charged yet, is not added. So on a
busy system the calls in flight at that moment may be left out, and a later rebuild adds them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidecar.reconcile.compare import AccountComparison, Reconciler, reconcile
from sidecar.reconcile.differences import Kind, Verdict
from sidecar.stores.inspector import Inspector
from sidecar.stores.rebuild import Change

ROUNDS: Final = 3


class Raised(NamedTuple):
    """A counter that is, or would be, changed by `units`."""

    verdict: Verdict
    units: int


@dataclass(slots=True)
class Rebuilt:
    """What was done, or would be. `busy`: accounts that changed under our hands each time;
    `unknown`: those that nobody knows the calendar of, and which are left alone."""

    raised: list[Raised] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def rebuild(
    looker: Reconciler,
    inspector: Inspector,
    *,
    apply: bool,
    lower: bool,
    wait: Callable[[], None],
) -> Rebuilt:
    """Look, and with `apply` change what was lost; again until nothing is. With `lower`, what is
    too high and stays so after `wait` is taken back."""
    done = Rebuilt()
    looks = reconcile(looker, wait) if lower else looker.read_counters(looker.begin())
    for _ in range(ROUNDS):
        todo = dict(_to_do(looker, looks, done, lower))
        if not apply:
            done.raised += [one for raises in todo.values() for one in raises]
            break
        done.busy = []
        for name, raises in todo.items():
            if _apply(looker, inspector, name, looks[name], raises):
                done.raised += raises
            else:
                done.busy.append(name)
        if not todo:
            break
        looker.read_events()
        looks, lower = looker.read_counters(sorted(todo)), False
    return done


def _to_do(
    looker: Reconciler, looks: dict[str, AccountComparison], done: Rebuilt, lower: bool
) -> Iterator[tuple[str, list[Raised]]]:
    for name, look in sorted(looks.items()):
        raises = [one for verdict in look.verdicts for one in _raise(looker, verdict, lower)]
        if not raises:
            continue
        if looker.usage.accounts[name].who.known:
            yield name, raises
        elif name not in done.unknown:
            done.unknown.append(name)


def _raise(looker: Reconciler, verdict: Verdict, lower: bool) -> Iterator[Raised]:
    """Only in the period that is now: others are closed."""
    units = -verdict.of(Kind.LOST) - (verdict.of(Kind.MISSING) if lower else 0)
    if units and verdict.row.start <= looker.now_us < verdict.row.end:
        yield Raised(verdict, units)


def _apply(
    looker: Reconciler,
    inspector: Inspector,
    name: str,
    look: AccountComparison,
    raises: list[Raised],
) -> bool:
    changes = [
        Change(
            one.verdict.row.limit, one.verdict.row.key, one.units, one.verdict.counter,
            one.verdict.row.start,
        )
        for one in raises
    ]  # fmt: skip
    account = looker.usage.accounts[name].who.account
    return inspector.rebuild(account, changes, look.held.rebuilt, looker.now_us).done
