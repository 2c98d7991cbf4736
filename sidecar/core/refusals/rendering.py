"""Refusals as bodies: JSON for programs, text for people."""

import json
from typing import Any, Final

from sidecar.core.refusals.build import Refusal
from sidecar.core.refusals.problems import Step
from sidecar.core.text import span


def render_json(refusal: Refusal) -> bytes:
    """Return the body as application/problem+json."""
    return json.dumps(refusal.problem, ensure_ascii=False, separators=(",", ":")).encode()


def render_text(refusal: Refusal) -> bytes:
    """Return the body as text/plain in UTF-8, for people."""
    problem = refusal.problem
    lines = [f"{problem['status']} {problem['title']}", "", str(problem["detail"]), ""]
    lines += ["How to fix it:", *(f"- {_step_text(step)}" for step in _list(problem, "how_to_fix"))]
    open_routes = _list(problem, "still_available")
    if open_routes:
        lines += ["", "Still available:", *(f"- {route}" for route in open_routes)]
    lines += ["", f"Request id: {problem['request_id']}", ""]
    return "\n".join(lines).encode()


def _list(problem: dict[str, Any], member: str) -> list[Any]:
    value = problem.get(member)
    return value if isinstance(value, list) else []


_SENTENCES: Final = {
    "slow_down": "Slow down to {to}.",
    "ask_for_less": "Ask for {to}.",
    "read_docs": "Read {href}",
}


def _step_text(step: Step) -> str:
    if "what" in step:
        return str(step["what"])
    if step["action"] == "wait":
        if "until" in step:
            return f"Wait until {step['until']}."
        return f"Wait {span(step['seconds'])}, then try again."
    if step["action"] == "do_all":
        return " Also: ".join(_step_text(part) for part in step["steps"])
    if step["action"] == "buy_pack":
        times = f", {step['times']} times" if "times" in step else ""
        price = f" for {step['price']}" if "price" in step else ""
        where = f": {step['href']}" if "href" in step else "."
        return f"Buy pack {step['pack']}, {step['units']:,} more{price}{times}{where}"
    if step["action"] == "upgrade":
        where = f": {step['href']}" if "href" in step else "."
        return f"Upgrade to plan {step['plan']}{where}"
    return _SENTENCES[step["action"]].format_map(step)
