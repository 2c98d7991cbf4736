"""The command line. Verbs live in `sidecar.commands`; here they get names, and errors get words.

What must live here: the list of verbs, exit codes, and the promise that nobody sees a traceback.
Exit codes: 0 done, 1 a check found problems or something did not work, 2 wrong usage or
settings, 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from sidecar.commands import (
    accounts,
    backtest,
    events,
    explain,
    grants,
    jobs,
    plans,
    rebuild,
    reconcile,
    serve,
)
from sidecar.commands.options import Verb
from sidecar.errors import ConfigError, SettingsError, SidecarError, SpoolError

HELP = """Plans, quotas, explained refusals and metering in front of your API.

\b
Start here:
  sidecar demo                    everything on this machine, nothing to install
  sidecar check plans.yaml        is the plan file right?
  sidecar serve --plans plans.yaml --upstream http://127.0.0.1:3000
"""


def build() -> typer.Typer:
    """The whole command line, as a Typer app."""
    app = typer.Typer(
        name="sidecar",
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(help=HELP)(_start)
    app.command(help=serve.SERVE_HELP, cls=Verb)(serve.with_settings_flags(serve.serve))
    for verb in (serve.demo, plans.check, plans.schema, explain.explain, grants.grant):
        app.command(cls=Verb)(verb)
    app.add_typer(accounts.keys_app(), name="keys")
    app.add_typer(accounts.accounts_app(), name="accounts")
    app.add_typer(jobs.app(), name="jobs")
    app.add_typer(events.app(), name="events")
    app.command(cls=Verb)(reconcile.reconcile)
    app.command(cls=Verb)(rebuild.rebuild)
    app.command(cls=Verb)(backtest.backtest)
    app.command(cls=Verb)(serve.version)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(serve.version_line())
        raise typer.Exit


def _start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """What comes before every verb."""


def main() -> None:
    """The command `sidecar`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Errors are one line each on stderr."""
    try:
        code = build()(args=list(arguments), prog_name="sidecar", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _usage(error, arguments)
    except SettingsError as error:
        return _complain(error, 2)
    except ConfigError as error:
        return _complain(error, 2, "sidecar check FILE, until it says ok")
    except SpoolError as error:
        # Most of them say themselves what to do.
        hint = "another directory with --spool DIR (SIDECAR_SPOOL)"
        return _complain(error, 2, None if "--spool" in str(error) else hint)
    except SidecarError as error:
        return _complain(error, 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a user never gets a traceback
        return _apologise(error, arguments)
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException, arguments: Sequence[str]) -> int:
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)  # noqa: T201 - the help text itself
        return 2
    _say("error", message[:1].lower() + message[1:])
    _say("try", f"{_verb(arguments)} --help")
    return 2


def _verb(arguments: Sequence[str]) -> str:
    """The verb that was meant: an error of the parser itself does not tell."""
    command, path = typer.main.get_command(build()), ["sidecar"]
    for word in arguments:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
        path.append(word)
    return " ".join(path)


def _complain(error: SidecarError, code: int, hint: str | None = None) -> int:
    for line in str(error).splitlines():
        _say("error", line)
    if hint is not None:
        _say("try", hint)
    return code


def _apologise(error: Exception, arguments: Sequence[str]) -> int:
    _say(
        "error",
        f"sorry, this is a fault of the sidecar: {type(error).__name__}; please report it, "
        "with the output at --log-level debug (SIDECAR_LOG_LEVEL=debug)",
    )
    level = os.environ.get("SIDECAR_LOG_LEVEL", "").lower()
    flag = " ".join(arguments).replace("=", " ")
    if level == "debug" or "--log-level debug" in flag:
        traceback.print_exception(error)
    return 1


def _say(kind: str, text: str) -> None:
    print(f"{kind}: {text}", file=sys.stderr)  # noqa: T201 - stderr is where people read it
