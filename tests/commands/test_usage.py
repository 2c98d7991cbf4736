"""Verbs, help, and what wrong input is answered with."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar import __version__
from sidecar.cli import build, run
from sidecar.settings import all_settings

DOCS = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"


def verbs() -> list[str]:
    """Every verb as it is typed: "serve", "keys create"…"""
    found = []

    def walk(command: Any, path: list[str]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(" ".join(path))
            return
        for name, one in inner.items():
            walk(one, [*path, name])

    walk(typer.main.get_command(build()), [])
    return found


def test_the_docs_list_every_verb_and_no_other() -> None:
    written = re.findall(r"^\| `sidecar ([^`]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert sorted(written) == sorted(verbs())


Told = tuple[int, str, str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`told("check", "x")` → (exit code, stdout, stderr) of a command line, in this process."""
    for setting in all_settings():
        monkeypatch.delenv(setting.env, raising=False)

    def call(*arguments: str) -> Told:
        code = run(arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_serve_has_one_flag_for_every_setting(told: Any) -> None:
    code, text, _ = told("serve", "--help")
    assert code == 0
    for setting in all_settings():
        assert re.search(rf"^ +{setting.flag}\b", text, re.MULTILINE), setting.flag
        assert setting.env in text


@pytest.mark.parametrize("verb", verbs())
def test_the_help_of_every_verb_has_an_example(told: Any, verb: str) -> None:
    code, text, _ = told(*verb.split(), "--help")
    assert code == 0
    assert re.search(rf"^ +\S*(SIDECAR_\S+ |KEY=\$\()?sidecar {verb}", text, re.MULTILINE)


@pytest.mark.parametrize("verb", ["", *verbs()])
def test_the_help_says_what_to_write_and_what_for(told: Any, verb: str) -> None:
    command = typer.main.get_command(build())
    for word in verb.split():
        command = command.commands[word]  # type: ignore[attr-defined]
    for parameter in command.params:
        assert re.match(r"[A-Z][^\[]{5,}", parameter.help or ""), parameter.name
    _, text, _ = told(*verb.split(), "--help")
    assert not re.search(r"<\w+|\bTEXT\b|\b(str|int|float)\b", text)


def test_no_verb_at_all_prints_the_help(told: Any) -> None:
    code, out, text = told()
    assert (code, out) == (2, "")
    assert "sidecar demo" in text


@pytest.mark.parametrize("how", ["version", "--version"])
def test_the_installed_command_says_its_version(sidecar: Any, how: str) -> None:
    done = sidecar(how)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"quota-sidecar {__version__} (Python 3.")


def test_the_installed_command_answers_wrong_settings_with_exit_code_2(sidecar: Any) -> None:
    done = sidecar("serve", SIDECAR_LISTEN="8080")
    assert done.returncode == 2
    assert '--listen (SIDECAR_LISTEN) is wrong: "8080" is not an address' in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ("srve", "no such command 'srve'", "sidecar --help"),
        ("serve --lisen x", "no such option", "sidecar serve --help"),
        ("serve", "--plans (SIDECAR_PLANS) is missing", None),
        ("serve --plans p.yaml --upstream ftp://a", "is not an upstream", None),
        ("demo --listen 99", '--listen (SIDECAR_LISTEN) is wrong: "99"', None),
        ("check", "missing argument", "sidecar check --help"),
        ("schema x", "unexpected extra argument", "sidecar schema --help"),
        ("explain GET /x", "--plans (SIDECAR_PLANS) is missing", None),
        ("explain --plans p.yaml GET", "missing argument", "sidecar explain --help"),
        ("explain --key a --account b GET /x", "give one of --key, --key-env", None),
        ("explain --key-env NOT_SET GET /x", "the variable NOT_SET is not set", None),
        ("keys create", "--account", "sidecar keys create --help"),
        ("keys create --account a --redis nope", "not a Redis URL", None),
        ("keys revoke --account a", "--id", "sidecar keys revoke --help"),
        ("accounts set", "--account", "sidecar accounts set --help"),
        ("events tail -n x", "valid integer", "sidecar events tail --help"),
        ("serve --access-log=yes", "does not take a value", "sidecar serve --help"),
        ("serve --listen", "requires an argument", "sidecar serve --help"),
        ("events tail --spool", "requires an argument", "sidecar events tail --help"),
        ("--versio", "no such option", "sidecar --help"),
        ("version x", "unexpected extra argument", "sidecar version --help"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(
    told: Any, line: str, sentence: str, hint: str | None
) -> None:
    code, out, errors = told(*line.split())
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert sentence in errors
    assert "Traceback" not in errors
    if hint is not None:
        assert errors.splitlines()[1:] == [f"try: {hint}"]


@pytest.mark.parametrize(("level", "traceback"), [("info", False), ("debug", True)])
def test_a_fault_of_ours_is_an_apology_and_a_traceback_only_for_debug(
    told: Any, monkeypatch: pytest.MonkeyPatch, level: str, traceback: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("SIDECAR_LOG_LEVEL", level)
    monkeypatch.setattr("sidecar.config.schema.schema", broken)
    code, out, errors = told("schema")
    assert (code, out) == (1, "")
    assert errors.startswith("error: sorry, this is a fault of the sidecar: ZeroDivisionError")
    assert ("Traceback" in errors) is traceback
