"""An explanation in words, for people; programs read the same as JSON."""

from typing import Any

from sidecar.core.reasons import Reason
from sidecar.core.text import amount, span

_ALLOWED = {
    Reason.OK: "allowed",
    Reason.OVERAGE: "allowed, as overage",
    Reason.CRITICAL: "allowed past a spent limit, because the route is critical",
    Reason.STORE_DOWN: "allowed without asking Redis, as the route's class or the plan says",
}


def in_words(told: dict[str, Any]) -> str:
    """The explanation for people."""
    lines = [told["request"], ""]
    who = told["identity"]
    if who is None:
        lines.append("account   not known")
    else:
        team = f", team {who['team']}" if who["team"] else ""
        lines.append(
            f"account   {who['account']} (key {who['key']}{team}, from: {who['known_from']})"
        )
        lines.append(f"plan      {who['plan']}")
    if "route" in told:
        lines += _route_lines(told)
        lines += ["limits    " + ("" if told["limits"] else "none apply to this route")]
        lines += [f"  {_limit_line(row)}" for row in told["limits"]]
    if "state_unknown" in told:
        lines.append(f"state     unknown: {told['state_unknown']}")
    decision = told["decision"]
    if decision["allowed"]:
        lines.append(f"decision  {_ALLOWED[Reason(decision['reason'])]}")
        lines += [f"  crosses {notice}" for notice in decision["notices"]]
    else:
        done = "deferred" if decision["deferred"] else "refused"
        lines += [f"decision  {done}: {decision['status']} {decision['reason']}"]
        if decision["held_s"] is not None:
            lines += [f"waits     held for {decision['held_s']:.3g} s, if nobody is before it"]
        if decision["deferred"]:
            lines += ["runs      later, as a job; if that cannot be kept, it is refused like this"]
        lines += [""]
        lines += [f"  {line}".rstrip() for line in decision["text"].splitlines()]
    return "\n".join(line.rstrip() for line in lines)


def _route_lines(told: dict[str, Any]) -> list[str]:
    features = told["features"]
    needed, missing = features["needed"], features["missing"]
    if missing:
        where = features["missing_in"]
        needs = f"needs {', '.join(needed)}; missing {', '.join(missing)}"
        needs += f" (in plan {where})" if where else " (in no plan)"
    else:
        needs = f"needs {', '.join(needed)}: included" if needed else "needs none"
    return [
        f"route     {told['route']['id']}: {told['route']['match']}",
        f"class     {told['class']}",
        f"features  {needs}",
    ]


_PERIODS = {"cycle": "billing cycle"}


def _size(row: dict[str, Any]) -> str:
    if row["kind"] == "rate":
        return f"{row['rate']}, burst {row['limit']:,}"
    if row["kind"] == "concurrency":
        return f"concurrency {row['limit']:,}"
    period = row["period"]
    if period.endswith("s"):
        period = span(int(period[:-1]))
    return f"{amount(row['limit'], row['unit'])} per {_PERIODS.get(period, period)}"


def _team(team: dict[str, Any]) -> str:
    who = f"team {team['id']}" if team["id"] else "keys without a team"
    return (
        f" ({who}: used {team['used']:,} of {team['guaranteed']:,} guaranteed, may use "
        f"{team['remaining']:,} now; {team['guaranteed_to_others']:,} are kept for other teams)"
    )


def _limit_line(row: dict[str, Any]) -> str:
    whose = " per key" if row["per"] == "key" else ""
    text = f"{row['id']}{whose}: {_size(row)}"
    if "hard_cap" in row:
        text += f" (hard cap {row['hard_cap']:,})"
    text += " (in shadow: refuses nothing)" if "shadow" in row else ""
    text += f"; this call costs {amount(row['cost'], row['unit'])}"
    if "used" not in row:
        return text
    text += f"; used {row['used']:,}, left {row['remaining']:,}"
    if "carried_over" in row:
        text += f", {row['carried_over']:,} of them carried over"
    if "grants" in row:
        text += f", {row['grants']:,} of them from packs"
    if "team" in row:
        text += _team(row["team"])
    if row["resets_at"] is not None:
        text += f", {'full again' if row['kind'] == 'rate' else 'resets'} {row['resets_at']}"
    return text
