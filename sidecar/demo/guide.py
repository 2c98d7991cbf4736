"""The text that the demo prints: its parts, and five commands for another terminal."""

import shlex
import sys
from pathlib import Path

from sidecar.settings import Settings, UnixPath

FREE_KEY = "demo-free-key"


def guide(settings: Settings) -> str:
    """The text. Each line that begins with four spaces is a bash command."""
    url = _url(settings)
    lines = [
        f"Quota Sidecar demo: {url}",
        "",
        f"  sidecar     {url}, control http://{settings.control}",
        f"  sample API  {settings.upstream}",
        f"  Valkey      {settings.redis_label}, in memory",
        f"  plan file   {settings.plans}",
        f"  events      {settings.spool}",
        "",
        "Paste these into another terminal:",
    ]
    for title, command in examples(settings):
        lines += ["", f"  # {title}", f"    {command}"]
    lines += ["", "Ctrl-C stops everything.", ""]
    return "\n".join(lines)


def examples(settings: Settings) -> list[tuple[str, str]]:
    """Titles and bash commands to try, in this order."""
    key = f"-H 'X-Api-Key: {FREE_KEY}'"
    base = _url(settings)
    if isinstance(settings.listen, UnixPath):
        base = "http://localhost"
        key = f"--unix-socket {shlex.quote(settings.listen.path)} {key}"
    request = f"curl -sS -i -w '\\n' {key}"
    # One connection, which exceeds the limit on any machine.
    burst = f"curl -sS -o /dev/null -w '%{{http_code}} ' {key} '{base}/v1/items?n=[1-40]'"
    sidecar = shlex.quote(_command())
    spool = shlex.quote(str(settings.spool))
    return [
        ("an allowed request: see its RateLimit headers", f"{request} {base}/v1/items"),
        (
            "a burst that ends in a 429 that explains itself",
            f"{burst}; {request} {base}/v1/items",
        ),
        (
            "a critical route still answers",
            f"{request} -X POST {base}/v1/auth/login",
        ),
        (
            "a feature that the plan lacks: the 403 names a plan that has it",
            f"{request} -X POST {base}/v1/exports",
        ),
        ("the last usage events", f"{sidecar} events tail -n 3 --spool {spool}"),
    ]


def _url(settings: Settings) -> str:
    listen = settings.listen
    return str(listen) if isinstance(listen, UnixPath) else f"http://{listen}"


def _command() -> str:
    """The path of this program, which works in any directory and without PATH."""
    return str(Path(sys.argv[0]).absolute())
