"""The text form of an explanation, for people; programs read JSON."""

from typing import Any, Final

from sidecar.core.kinds import UNBOUNDED
from sidecar.core.reasons import Reason
from sidecar.core.text import amount, span

_ALLOWED: Final = {
    Reason.OK: "allowed",
    Reason.OVERAGE: "allowed, as overage",
    Reason.CRITICAL: "allowed beyond a limit, because the route is critical",
    Reason.STORE_DOWN: "allowed without Redis, as the route's class or the plan says",
}
_SOURCES: Final = {"redis": "Redis", "plan file": "the plan file"}
_PERIODS: Final = {"cycle": "billing cycle"}


def text_of(explanation: dict[str, Any]) -> str:
    """Return an explanation as text."""
    lines = [explanation["request"], "", *_identity_lines(explanation["identity"])]
    if "route" in explanation:
        lines += _route_lines(explanation)
        limits = explanation["limits"]
        lines += ["limits    " + ("" if limits else "none apply to this route")]
        lines += [f"  {_limit_line(row)}" for row in limits]
    if "state_unknown" in explanation:
        lines.append(f"state     unknown: {explanation['state_unknown']}")
    lines += _decision_lines(explanation["decision"])
    return "\n".join(line.rstrip() for line in lines)


def _identity_lines(identity: dict[str, Any] | None) -> list[str]:
    if identity is None:
        return ["account   not known"]
    team = f", team {identity['team']}" if identity["team"] else ""
    source = _SOURCES.get(identity["known_from"], identity["known_from"])
    if identity["known_from"] == "no credential":
        known = f"no API key given{team}; anonymous"
    elif identity["key"] == "none":
        known = f"no API key given{team}; account from {source}"
    else:
        known = f"API key {identity['key']}{team}; account from {source}"
    return [f"account   {identity['account']} ({known})", f"plan      {identity['plan']}"]


def _decision_lines(decision: dict[str, Any]) -> list[str]:
    if "depends_on" in decision:
        return [
            "decision  depends on the local share of each sidecar while Redis is unavailable",
            "          (when_store_is_down: local); beyond it, this is the answer:",
            "",
            *(f"  {line}" for line in decision["text"].splitlines()),
        ]
    if decision["allowed"]:
        notices = [f"  crosses {notice}" for notice in decision["notices"]]
        return [f"decision  {_ALLOWED[Reason(decision['reason'])]}", *notices]
    verb = "deferred" if decision["deferred"] else "refused"
    lines = [f"decision  {verb}: {decision['status']} {decision['reason']}"]
    if decision["wait_s"] is not None:
        lines += [f"waits     {decision['wait_s']:.3g} s, if no other request waits before it"]
    if decision["deferred"]:
        lines += ["runs      later, as a job; if it cannot be queued, this is the answer:"]
    return [*lines, "", *(f"  {line}" for line in decision["text"].splitlines())]


def _route_lines(explanation: dict[str, Any]) -> list[str]:
    features = explanation["features"]
    needed, missing = features["needed"], features["missing"]
    if missing:
        plan = features["missing_in"]
        needs = f"needs {', '.join(needed)}; missing {', '.join(missing)}"
        needs += f" (in plan {plan})" if plan else " (in no plan)"
    else:
        needs = f"needs {', '.join(needed)}: included" if needed else "needs none"
    return [
        f"route     {explanation['route']['id']}: {explanation['route']['match']}",
        f"class     {explanation['class']}",
        f"features  {needs}",
    ]


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
    name = f"team {team['id']}" if team["id"] else "API keys without a team"
    return (
        f" ({name}: used {team['used']:,} of {team['guaranteed']:,} guaranteed, may use "
        f"{team['remaining']:,} now; {team['guaranteed_to_others']:,} guaranteed to other teams)"
    )


def _limit_line(row: dict[str, Any]) -> str:
    text = f"{row['id']}: {_size(row)}"
    if row["per"] == "key":
        text += ", for each API key"
    if row.get("hard_cap") == UNBOUNDED:
        text += " (overage without cap)"
    elif "hard_cap" in row:
        text += f" (hard cap {row['hard_cap']:,})"
    text += " (in shadow: refuses nothing)" if "shadow" in row else ""
    if row["kind"] == "concurrency":
        text += f"; this request takes {amount(row['cost'], 'slot')}"
    else:
        text += f"; this request costs {amount(row['cost'], row['unit'])}"
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
