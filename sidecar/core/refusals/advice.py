"""`how_to_fix` of a refusal by limits: what would let this very request pass.

A step that helps only together with others is part of one step `do_all`.
"""

from typing import Final

from sidecar.core.kinds import QUOTA, SLOTS, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Entitlement, Links, Pack, PlanBook
from sidecar.core.periods import pack_end_us
from sidecar.core.reasons import Decision, LimitStatus, Reason
from sidecar.core.refusals.problems import Step
from sidecar.core.refusals.upgrades import next_plan
from sidecar.core.text import amount, instant, plural, speed, unit_of
from sidecar.core.waits import refill_us

MOST_OFFERS: Final = 8  # ways to buy packs that one refusal lists
MOST_TIMES: Final = 10  # how often one way buys the same pack

_ASK_OWNER: Final[Step] = {
    "action": "ask",
    "what": "Ask the account's owner for a larger share for the team, or to let other teams lend.",
}
_ASK_TEAM: Final[Step] = {"action": "ask", "what": "Ask the API's team for a higher limit."}


def steps(
    book: PlanBook, entitlement: Entitlement, account: Account, decision: Decision
) -> list[Step]:
    """Return the steps, best first; at least one."""
    found: list[Step] = []
    if decision.retry_us is not None:
        found.append(_wait(decision.now_us + decision.retry_us))
    found += _slower(book, decision)
    if decision.reason is not Reason.ABUSE:
        found += _for_less(book, entitlement, decision)
        if any(status.team is not None for status in decision.violated):
            found.append(_ASK_OWNER)
        found += _purchases(book, account, decision)
        better = next_plan(book, entitlement, account, decision)
        if better is not None:
            found.append(upgrade(better, book.links))
    return (found or [_ASK_TEAM]) + read_docs(book.links)


def upgrade(plan: str, links: Links) -> Step:
    """Return the step that moves the account to a plan."""
    step: Step = {"action": "upgrade", "plan": plan}
    if links.upgrade is not None:
        step["href"] = links.upgrade
    return step


def read_docs(links: Links) -> list[Step]:
    """Return the step that reads the documentation, if the plan file has its URL."""
    return [] if links.docs is None else [{"action": "read_docs", "href": links.docs}]


def _wait(until_us: int) -> Step:
    return {"action": "wait", "until": instant(until_us)}


def _slower(book: PlanBook, decision: Decision) -> list[Step]:
    found: list[Step] = []
    for status in decision.violated:
        limit = status.claim.limit
        if isinstance(limit, ConcurrencyLimit):
            at_once = amount(limit.slots, unit_of(book.meters, limit))
            found.append({"action": "slow_down", "to": f"{at_once} at once"})
        elif isinstance(limit, RateLimit) and status.reset_us is not None:
            to = speed(limit, unit_of(book.meters, limit))
            found.append({"action": "slow_down", "to": to})
    return found


def _for_less(book: PlanBook, entitlement: Entitlement, decision: Decision) -> list[Step]:
    """Return the step that asks for less, of meters whose units the request itself chooses."""
    never = [status for status in decision.violated if status.reset_us is None]
    meters = {status.claim.limit.meter for status in never if status.claim.limit.kind is not SLOTS}
    if not meters or not meters <= {meter for meter, _ in entitlement.estimates}:
        return []
    alike = {
        meter: [one for one in _known(decision) if one.claim.limit.meter == meter]
        for meter in meters
    }
    others = [status for status in decision.violated if status.claim.limit.meter not in meters]
    sized = dict(entitlement.sized)  # by the size of the request, beside what it asks for
    least = {meter: reserve.least for meter, reserve in entitlement.estimates}
    if any(min(map(_most, of)) < least[meter] for meter, of in alike.items()):
        return []
    now = {meter: min(map(_room, of)) - sized.get(meter, 0) for meter, of in alike.items()}
    fits = all(units > 0 and min(map(_room, alike[m])) >= least[m] for m, units in now.items())
    if not others and fits:
        return [_ask(book, alike[m][0], units, sized.get(m, 0)) for m, units in now.items()]
    fresh = {meter: min(map(_most, of)) - sized.get(meter, 0) for meter, of in alike.items()}
    if min(fresh.values()) < 1:
        return []
    full_us = [_full_us(one, decision.now_us) for of in alike.values() for one in of]
    until = max(*full_us, *(status.reset_us or 0 for status in others), 0)
    asks = [_ask(book, alike[m][0], units, sized.get(m, 0)) for m, units in fresh.items()]
    return [{"action": "do_all", "steps": [*asks, _wait(until)]}]


def _ask(book: PlanBook, status: LimitStatus, units: int, size: int) -> Step:
    unit = plural(unit_of(book.meters, status.claim.limit))
    beside = f", beside the {size:,} of its size" if size else ""
    return {"action": "ask_for_less", "to": f"at most {units:,} {unit} in one request{beside}"}


def _known(decision: Decision) -> tuple[LimitStatus, ...]:
    return decision.known or decision.violated


def _room(status: LimitStatus) -> int:
    """Units that fit now."""
    limit = status.claim.limit
    if status.team is not None:
        return status.team.left
    return max(0, limit.capacity + _extra(status) - status.used)


def _extra(status: LimitStatus) -> int:
    """Units of a quota in carried-over units and packs."""
    limit = status.claim.limit
    return status.limit_units - limit.units if isinstance(limit, QuotaLimit) else 0


def _most(status: LimitStatus) -> int:
    """Units that fit when nothing is used."""
    return status.claim.limit.capacity if status.team is None else status.team.most


def _full_us(status: LimitStatus, now_us: int) -> int:
    """When all of a limit is available again."""
    limit = status.claim.limit
    if isinstance(limit, RateLimit):
        return now_us + refill_us(limit, status.used)
    return status.reset_us or now_us


def _purchases(book: PlanBook, account: Account, decision: Decision) -> list[Step]:
    """Return the ways to buy packs: each alone, or together with what else is needed."""
    sold = {status: _sold(book, status) for status in decision.violated}
    rest = [status for status, packs in sold.items() if not packs]
    if any(one.reset_us is None and one.claim.limit.kind is not SLOTS for one in rest):
        return []
    until = max((one.reset_us or 0 for one in rest), default=0)
    wanted = [one for one in sold if sold[one] and (one.reset_us is None or one.reset_us > until)]
    live_at = max(until, decision.now_us)
    ways = []
    for status in wanted:
        live = [one for one in sold[status] if pack_end_us(one, account, decision.now_us) > live_at]
        ways.append(_ways(live, _short(status, _known(decision)), book.links))
    if not ways or not all(ways):
        return []
    waits = [_wait(until)] if until > decision.now_us else []
    if any(status.claim.limit.kind is SLOTS for status in rest):
        waits += _slower(book, decision)
    also = [step for others in ways[1:] for step in others[0]] + waits
    combined = [[*way, *also] for way in ways[0][:MOST_OFFERS]]
    return [
        way[0] if len(way) == 1 and "times" not in way[0] else {"action": "do_all", "steps": way}
        for way in combined
    ]


def _sold(book: PlanBook, status: LimitStatus) -> list[Pack]:
    """The packs for a quota per account, the smallest first."""
    limit = status.claim.limit
    if limit.kind is not QUOTA or limit.per != "account":
        return []
    alike = (
        one for one in book.packs.values() if (one.limit, one.meter) == (limit.id, limit.meter)
    )
    return sorted(alike, key=lambda one: one.units)


def _short(status: LimitStatus, known: tuple[LimitStatus, ...]) -> int:
    """Units that packs would have to add to a quota for its request to fit."""
    limit, cost = status.claim.limit, status.claim.cost
    room = limit.capacity + _extra(status) - status.used
    for one in (status, *known):
        if one.team is not None and one.claim.limit.id == limit.id:
            needed = cost if cost <= one.team.kept else cost + one.team.others
            return needed - one.team.room
    return cost - room


def _ways(packs: list[Pack], short: int, links: Links) -> list[list[Step]]:
    """Each single pack that is enough; else as many of the largest as are needed."""
    enough = [[_buy(one, links)] for one in packs if one.units >= short]
    if enough or not packs:
        return enough
    times = -(-short // packs[-1].units)
    return [[{**_buy(packs[-1], links), "times": times}]] if times <= MOST_TIMES else []


def _buy(pack: Pack, links: Links) -> Step:
    step: Step = {"action": "buy_pack", "pack": pack.id, "units": pack.units}
    if pack.price:
        step["price"] = pack.price
    if links.packs is not None:
        step["href"] = links.packs.replace("{pack}", pack.id)
    return step
