"""Verbs, help, and what wrong input is answered with."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar.cli import build
from sidecar.settings import described

DOCS = Path(__file__).parent.parent.parent / "docs" / "cli.md"


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


def test_serve_has_one_flag_for_every_setting(sidecar: Any) -> None:
    done = sidecar("serve", "--help")
    assert done.returncode == 0
    for setting in described():
        assert re.search(rf"^ +{setting.flag}\b", done.stdout, re.MULTILINE), setting.flag
        assert setting.env in done.stdout


@pytest.mark.parametrize("verb", verbs())
def test_the_help_of_every_verb_has_an_example(sidecar: Any, verb: str) -> None:
    done = sidecar(*verb.split(), "--help")
    assert done.returncode == 0
    assert re.search(rf"^ +(SIDECAR_\S+ )?sidecar {verb}", done.stdout, re.MULTILINE)


def test_no_verb_at_all_prints_the_help(sidecar: Any) -> None:
    done = sidecar()
    assert done.returncode == 2
    assert "sidecar demo" in done.stdout + done.stderr


def test_version_names_the_distribution(sidecar: Any) -> None:
    done = sidecar("version")
    assert done.returncode == 0
    assert done.stdout.startswith("quota-sidecar ")


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (["srve"], "no such command", "sidecar --help"),
        (["serve", "--lisen", "x"], "no such option", "sidecar serve --help"),
        (["serve"], "--plans (SIDECAR_PLANS) is missing", None),
        (["serve", "--plans", "p.yaml", "--upstream", "https://a"], "not supported yet", None),
        (["serve", "--listen", "99"], '--listen (SIDECAR_LISTEN) is wrong: "99"', None),
        (["demo", "--listen", "99"], '--listen (SIDECAR_LISTEN) is wrong: "99"', None),
        (["check"], "missing argument", "sidecar check --help"),
        (["schema", "x"], "unexpected extra argument", "sidecar schema --help"),
        (["explain", "GET", "/x"], "--plans", None),
        (["explain", "--plans", "p.yaml", "GET"], "missing argument", "sidecar explain --help"),
        (["keys", "create"], "--account", "sidecar keys create --help"),
        (["keys", "create", "--account", "a", "--redis", "nope"], "not a Redis URL", None),
        (["keys", "revoke", "--account", "a"], "--id", "sidecar keys revoke --help"),
        (["accounts", "set"], "--account", "sidecar accounts set --help"),
        (["events", "tail", "-n", "x"], "not a valid int", "sidecar events tail --help"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(
    sidecar: Any, arguments: list[str], sentence: str, hint: str | None
) -> None:
    done = sidecar(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    if hint is not None:
        assert rest == [f"try: {hint}"]
