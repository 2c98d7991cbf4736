"""What the demo prints: what is running, and five lines to paste into another terminal."""

import shlex
import sys
from pathlib import Path

from sidecar.settings import Settings, UnixPath

FREE_KEY = "demo-free-key"


def guide(settings: Settings) -> str:
    """The text; each line that starts with four spaces can be pasted into bash as it is."""
    where = _shown(settings)
    lines = [
        f"Quota Sidecar demo: {where}",
        "",
        f"  sidecar     {where}, control http://{settings.control}",
        f"  sample API  {settings.upstream}, behind it",
        f"  Valkey      {settings.redis_label}, in memory",
        f"  plan file   {settings.plans}",
        f"  events      {settings.spool}",
        "",
        "Paste these into another terminal:",
    ]
    for title, command in tries(settings):
        lines += ["", f"  # {title}", f"    {command}"]
    lines += ["", "Ctrl-C stops everything.", ""]
    return "\n".join(lines)


def tries(settings: Settings) -> list[tuple[str, str]]:
    """What to try, in this order: a title and one line of bash."""
    key = f"-H 'X-Api-Key: {FREE_KEY}'"
    base = _shown(settings)
    if isinstance(settings.listen, UnixPath):
        base = "http://localhost"
        key = f"--unix-socket {shlex.quote(settings.listen.path)} {key}"
    call = f"curl -sS -i -w '\\n' {key}"
    # One connection, so that it is faster than the limit on any machine.
    burst = f"curl -sS -o /dev/null -w '%{{http_code}} ' {key} '{base}/v1/items?n=[1-40]'"
    sidecar = shlex.quote(_command())
    spool = shlex.quote(str(settings.spool))
    return [
        ("an allowed call: see the RateLimit headers", f"{call} {base}/v1/items"),
        (
            "a burst that ends in a 429 that explains itself",
            f"{burst}; {call} {base}/v1/items",
        ),
        (
            "a critical endpoint still answers",
            f"{call} -X POST {base}/v1/auth/login",
        ),
        (
            "a feature that the plan lacks: 403 names the plan that has it",
            f"{call} -X POST {base}/v1/exports",
        ),
        ("the usage events just written", f"{sidecar} events tail -n 3 --spool {spool}"),
    ]


def _shown(settings: Settings) -> str:
    listen = settings.listen
    return str(listen) if isinstance(listen, UnixPath) else f"http://{listen}"


def _command() -> str:
    """How to call ourselves from any directory, whether or not we are on the PATH."""
    return str(Path(sys.argv[0]).absolute())
