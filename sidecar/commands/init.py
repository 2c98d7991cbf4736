"""init: a plan file to begin with, and the API key of its first account."""

import os
import secrets
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from sidecar.commands.account_options import name
from sidecar.commands.output import echo
from sidecar.errors import SettingsError

UPSTREAM: Final = "http://127.0.0.1:3000"
FREE: Final = 1_000
ACCOUNT: Final = "acme"
_TRIES: Final = 3  # wrong answers to one question
_T = TypeVar("_T")


def init(
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Address of the API. Default: {UPSTREAM}.")
    ] = None,
    free: Annotated[
        str | None,
        typer.Option(
            metavar="N", help=f"Requests per month in the plan named free. Default: {FREE}."
        ),
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help=f"ID of the first account. Default: {ACCOUNT}.")
    ] = None,
    plans: Annotated[
        Path, typer.Option(metavar="FILE", help="Path of the plan file to write.")
    ] = Path("plans.yaml"),
) -> int:
    """Write a plan file to begin with, and create an API key.

    Asks for what no option gives; without a terminal, it takes the defaults. The file has two
    plans and the SHA-256 of the first account's API key. The key is printed once, alone on
    stdout; the command that runs the sidecar is on stderr. An existing file is never overwritten.

    \b
    Examples:
      sidecar init
      KEY=$(sidecar init --upstream http://127.0.0.1:3000 --free 1000 --account acme)
    """
    from sidecar.config.starter import Starter, starter_plan
    from sidecar.core.api_key import RANDOM_BYTES, api_key
    from sidecar.core.identity import key_digest

    if os.path.lexists(plans):
        raise SettingsError(f"--plans: {plans} exists; name another with --plans FILE, or move it")
    ask = sys.stdin.isatty() and sys.stderr.isatty()
    address = _value("Where is your API?", upstream, UPSTREAM, _upstream, ask=ask)
    units = _value("How many requests per month are free?", free, str(FREE), _requests, ask=ask)
    first = _value("What is your first account called?", account, ACCOUNT, _account, ask=ask)
    key = api_key(secrets.token_bytes(RANDOM_BYTES))
    text = starter_plan(Starter(plans.name, first, key_digest(key.encode()).hex(), units))
    _create(plans, text)
    echo(f"{plans}: plans free and pro, account {first} on free. Its API key is shown only now:",
         err=True)  # fmt: skip
    echo(key)
    echo(_next_steps(plans, address), err=True)
    return 0


def _next_steps(plans: Path, address: str) -> str:
    file, spool = shlex.quote(str(plans)), shlex.quote(str(plans.with_name("spool")))
    return f"""
Run it next to the API; it counts in the Redis or Valkey at 127.0.0.1:6379, or add --redis URL:

  sidecar serve --plans {file} --upstream {address} --spool {spool}

Then send a request, with the API key in KEY, and change the file as you like:

  curl -i http://127.0.0.1:8080/ -H "X-Api-Key: $KEY"
  sidecar check --strict {file}"""


def _value(
    question: str, given: str | None, default: str, read: Callable[[str], _T], *, ask: bool
) -> _T:
    """The value of an option, an answer or the default. Raises SettingsError if it is invalid."""
    if given is not None or not ask:
        return read(default if given is None else given)
    for left in reversed(range(_TRIES)):
        try:
            return read(_answer(f"{question} [{default}]: ") or default)
        except SettingsError as error:
            if not left:
                raise
            echo(str(error).partition(": ")[2], err=True)
    raise AssertionError("unreachable")


def _answer(question: str) -> str:
    """A line from the terminal. `typer.prompt` would print to stdout, which has only the key."""
    typer.echo(question, nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return line.strip()


def _upstream(text: str) -> str:
    from sidecar.settings import load_subset

    return str(load_subset("upstream", upstream=text).upstream)


def _account(text: str) -> str:
    return name("--account", text)


def _requests(text: str) -> int:
    from sidecar.config.starter import MOST_FREE

    digits = text.replace("_", "").replace(",", "")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0
    if not 1 <= number <= MOST_FREE:
        raise SettingsError(
            f'--free: "{text}" is not a number of requests; write one from 1 to {MOST_FREE:_}'
        )
    return number


def _create(path: Path, text: str) -> None:
    """Create a file and never replace one. Raises SettingsError."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingsError(f"--plans: {path} exists; name another with --plans FILE") from None
    except OSError as error:
        if path.is_file():
            path.unlink()  # the disk is full
        why = (error.strerror or str(error)).lower()
        raise SettingsError(
            f"--plans: {path} cannot be written: {why}; name another with --plans FILE"
        ) from None
