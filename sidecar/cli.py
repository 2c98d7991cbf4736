"""The command line: the list of commands, their exit codes, and how errors are printed.

Exit codes: 0 success, 1 a check found problems or something failed, 2 wrong usage or invalid
settings, 130 interrupted. No error prints a traceback, except an internal one at log level debug.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated
from unicodedata import category

import typer

from sidecar.commands import (
    accounts,
    backtest,
    events,
    explain,
    grants,
    init,
    inject,
    jobs,
    plan_archive,
    plans,
    rebuild,
    reconcile,
    serve,
    webhook,
)
from sidecar.commands.options import Command
from sidecar.core.text import one_line
from sidecar.errors import (
    ConfigError,
    ManifestError,
    SettingsError,
    SidecarError,
    SpoolError,
    terminal_lines,
)

HELP = """Put plans, quotas, explained refusals and metering in front of an API.

\b
Start here:
  sidecar demo                    run everything on this machine
  sidecar init                    write a plan file, with a first account
  sidecar check plans.yaml        check a plan file
  sidecar serve --plans plans.yaml --upstream http://127.0.0.1:3000
"""


def build() -> typer.Typer:
    """Build the command line as a Typer app."""
    app = typer.Typer(
        name="sidecar",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(help=HELP)(_start)
    app.command(help=serve.SERVE_HELP, cls=Command)(serve.with_settings_flags(serve.serve))
    for command in (
        serve.demo,
        init.init,
        plans.check,
        plans.schema,
        explain.explain,
        grants.grant,
    ):
        app.command(cls=Command)(command)
    app.add_typer(accounts.keys_app(), name="keys")
    app.add_typer(accounts.accounts_app(), name="accounts")
    app.add_typer(jobs.app(), name="jobs")
    app.add_typer(events.app(), name="events")
    app.add_typer(plan_archive.app(), name="plans")
    app.command(cls=Command)(reconcile.reconcile)
    app.command(cls=Command)(rebuild.rebuild)
    app.command(cls=Command)(backtest.backtest)
    app.command(cls=Command)(inject.inject)
    app.command(cls=Command)(inject.uninject)
    app.command(cls=Command)(webhook.webhook)
    app.command(cls=Command)(serve.version)
    return app


def _print_version(requested: bool) -> None:
    if requested:
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
    """Accept the options that are allowed before every command."""


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are printed to stderr."""
    control = _control_character(arguments)
    if control:
        number, char = control
        _print(f"error: argument {number} has the control character U+{ord(char):04X}: remove it")
        return 2
    try:
        code = build()(args=list(arguments), prog_name="sidecar", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _usage_error(error, arguments)
    except (SettingsError, ConfigError, ManifestError) as error:
        return _report(error, 2)
    except SpoolError as error:
        remedy = "set another directory with --spool DIR (SIDECAR_SPOOL)"
        return _report(error, 2, "" if "--spool" in str(error) else remedy)
    except SidecarError as error:
        return _report(error, 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader of the output ended (`| head`). Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort, to print no traceback
        return _internal_error(error, arguments)
    return code if isinstance(code, int) else 0


def _control_character(arguments: Sequence[str]) -> tuple[int, str] | None:
    """The number of an argument that could forge lines of output, and the character."""
    for number, argument in enumerate(arguments, 1):
        for char in argument:
            if category(char) == "Cc":
                return number, char
    return None


def _usage_error(error: typer.TyperException, arguments: Sequence[str]) -> int:
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)  # noqa: T201 - the help text
        return 2
    _print(f"error: {message[:1].lower() + message[1:]}")
    _print(f"try: {_command(arguments)} --help")
    return 2


def _command(arguments: Sequence[str]) -> str:
    """The command of a command line, such as `sidecar keys list`; the parser's error lacks it."""
    command, path = typer.main.get_command(build()), ["sidecar"]
    for word in arguments:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
        path.append(word)
    return " ".join(path)


def _report(error: SidecarError, code: int, remedy: str = "") -> int:
    for line in terminal_lines(error, remedy):
        _print(line)
    return code


def _internal_error(error: Exception, arguments: Sequence[str]) -> int:
    _print(f"error: internal error ({type(error).__name__})")
    _print("try: run it again with SIDECAR_LOG_LEVEL=debug, and report the output")
    level = os.environ.get("SIDECAR_LOG_LEVEL", "").lower()
    flag = " ".join(arguments).replace("=", " ")
    if level == "debug" or "--log-level debug" in flag:
        traceback.print_exception(error)
    return 1


def _print(line: str) -> None:
    print(one_line(line), file=sys.stderr)  # noqa: T201 - errors of a command line belong on stderr
