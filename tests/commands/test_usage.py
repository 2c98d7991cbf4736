"""Commands, their help, and the errors for wrong usage."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar import __version__
from sidecar.cli import build, run
from sidecar.settings import all_settings

DOCS = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"


def commands() -> list[str]:
    """Every command as it is typed: "serve", "keys create"…"""
    names = []

    def walk(command: Any, path: list[str]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            names.append(" ".join(path))
            return
        for name, subcommand in inner.items():
            walk(subcommand, [*path, name])

    walk(typer.main.get_command(build()), [])
    return names


def test_the_docs_list_every_command_and_no_other() -> None:
    written = re.findall(r"^\| `sidecar ([^`]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert sorted(written) == sorted(commands())


Result = tuple[int, str, str]


@pytest.fixture
def run_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run_line("check", "x")` → (exit code, stdout, stderr) of a command line, in this process."""
    for setting in all_settings():
        monkeypatch.delenv(setting.env, raising=False)

    def execute(*arguments: str) -> Result:
        code = run(arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return execute


def test_serve_has_one_option_per_setting(run_line: Any) -> None:
    code, text, _ = run_line("serve", "--help")
    assert code == 0
    for setting in all_settings():
        assert re.search(rf"^ +{setting.flag}\b", text, re.MULTILINE), setting.flag
        assert setting.env in text


@pytest.mark.parametrize("command", commands())
def test_the_help_of_every_command_has_an_example(run_line: Any, command: str) -> None:
    code, text, _ = run_line(*command.split(), "--help")
    assert code == 0
    assert re.search(rf"^ +\S*(SIDECAR_\S+ |KEY=\$\()?sidecar {command}", text, re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_the_help_begins_with_one_short_sentence(command: str) -> None:
    parser = typer.main.get_command(build())
    for word in command.split():
        parser = parser.commands[word]  # type: ignore[attr-defined]
    first, _, _ = (parser.help or "").partition("\n")
    assert first.endswith(".")
    assert len(first) <= 72


@pytest.mark.parametrize("command", ["", *commands()])
def test_the_help_describes_every_parameter_without_python_types(
    run_line: Any, command: str
) -> None:
    parser = typer.main.get_command(build())
    for word in command.split():
        parser = parser.commands[word]  # type: ignore[attr-defined]
    for parameter in parser.params:
        assert re.match(r"[A-Z][^\[]{5,}", parameter.help or ""), parameter.name
    _, text, _ = run_line(*command.split(), "--help")
    assert not re.search(r"<\w+|\bTEXT\b|\b(str|int|float)\b", text)


def test_no_command_prints_the_help(run_line: Any) -> None:
    code, out, text = run_line()
    assert (code, out) == (2, "")
    assert "sidecar demo" in text


@pytest.mark.parametrize("how", ["version", "--version"])
def test_the_installed_command_prints_its_version(sidecar: Any, how: str) -> None:
    done = sidecar(how)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"quota-sidecar {__version__} (Python 3.")
    assert done.stdout.endswith((", compiled)\n", ", interpreted)\n"))


def test_the_installed_command_ends_with_exit_code_2_for_invalid_settings(sidecar: Any) -> None:
    done = sidecar("serve", SIDECAR_LISTEN="8080")
    assert done.returncode == 2
    assert 'error: --listen (SIDECAR_LISTEN): "8080" is not an address' in done.stderr
    assert all(line.startswith(("error: ", "try: ")) for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("line", "message", "remedy"),
    [
        ("srve", "no such command 'srve'", "sidecar --help"),
        ("serve --lisen x", "no such option", "sidecar serve --help"),
        ("serve", "--plans (SIDECAR_PLANS): is missing", None),
        ("serve --plans p.yaml --upstream ftp://a", "is not an upstream", None),
        ("demo --listen 99", '--listen (SIDECAR_LISTEN): "99"', None),
        ("check", "missing argument", "sidecar check --help"),
        ("schema x", "unexpected extra argument", "sidecar schema --help"),
        ("explain GET /x", "--plans (SIDECAR_PLANS): is missing", None),
        ("explain --plans p.yaml GET", "METHOD and /PATH: missing", None),
        ("explain --key a --account b GET /x", "give one of --key, --key-env", None),
        ("explain --key-env NOT_SET GET /x", "the variable NOT_SET is not set", None),
        ("keys create", "--account", "sidecar keys create --help"),
        ("keys create --account a --redis nope", "not a Redis URL", None),
        ("keys revoke --account a", "--id", "sidecar keys revoke --help"),
        ("accounts set", "ACCOUNT: give one account ID", None),
        ("accounts set a --account b", "ACCOUNT: give one account ID", None),
        ("accounts set a/b --suspend", 'ACCOUNT: "a/b" is not an id', None),
        ("events tail -n x", "valid integer", "sidecar events tail --help"),
        ("serve --access-log=yes", "does not take a value", "sidecar serve --help"),
        ("serve --listen", "requires an argument", "sidecar serve --help"),
        ("events tail --spool", "requires an argument", "sidecar events tail --help"),
        ("--versio", "no such option", "sidecar --help"),
        ("version x", "unexpected extra argument", "sidecar version --help"),
    ],
)
def test_wrong_usage_is_an_error_with_exit_code_2(
    run_line: Any, line: str, message: str, remedy: str | None
) -> None:
    code, out, errors = run_line(*line.split())
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert "Traceback" not in errors
    if remedy is not None:
        assert errors.splitlines()[1:] == [f"try: {remedy}"]


@pytest.mark.parametrize(("level", "traceback"), [("info", False), ("debug", True)])
def test_an_internal_error_has_a_traceback_only_at_log_level_debug(
    run_line: Any, monkeypatch: pytest.MonkeyPatch, level: str, traceback: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("SIDECAR_LOG_LEVEL", level)
    monkeypatch.setattr("sidecar.config.schema.schema", broken)
    code, out, errors = run_line("schema")
    assert (code, out) == (1, "")
    assert errors.splitlines()[:2] == [
        "error: internal error (ZeroDivisionError)",
        "try: run it again with SIDECAR_LOG_LEVEL=debug, and report the output",
    ]
    assert ("Traceback" in errors) is traceback
