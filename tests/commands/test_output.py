"""Text that a command prints cannot begin another line or control the terminal."""

from pathlib import Path
from typing import Any

import pytest
import redis

EVIL = "a\nerror: b\x1b[31m"


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--account", EVIL, "--plan", "p"),
        ("keys", "revoke", "--account", "a", "--id", EVIL),
        ("accounts", "move", EVIL, "pro"),
        ("accounts", "set", "--account", "a", "--teams", EVIL),
        ("grant", "a", EVIL),
        ("explain", "GET", "/" + EVIL),
        ("jobs", "show", EVIL, "--account", "a"),
        ("events", "verify", "--spool", EVIL),
        ("check", EVIL),
        (EVIL,),
        ("keys", "list", "--account=a\x9b31m"),
    ],
)
def test_19_error_of_two_lines(sidecar: Any, arguments: tuple[str, ...]) -> None:
    done = sidecar(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: argument ")
    assert line.isprintable()


@pytest.mark.parametrize("name", ["SIDECAR_REDIS", "SIDECAR_PLANS", "SIDECAR_CONFIG"])
def test_values_from_the_environment_are_escaped(sidecar: Any, name: str) -> None:
    done = sidecar("grant", "acme", "boost", **{name: EVIL})
    assert done.returncode != 0
    assert "\x1b" not in done.stderr
    assert "error: b" not in done.stderr.splitlines()
    assert not any(line.startswith("error: b") for line in done.stderr.splitlines())


def test_names_from_redis_are_escaped(sidecar: Any, valkey_url: str) -> None:
    client = redis.Redis.from_url(valkey_url)
    client.sadd("qs:accounts", EVIL)
    client.hset("qs:{%s}:account" % EVIL, mapping={"plan": "p\tx\x1b[2J"})  # noqa: UP031
    client.hset("qs:{%s}:keys" % EVIL, "k\n1", "00")  # noqa: UP031
    client.hset("qs:key:00", mapping={"id": "k\n1", "account": EVIL})
    client.close()
    for command in ("accounts", "keys"):
        done = sidecar(command, "list", "--redis", valkey_url)
        assert done.returncode == 0
        [line] = done.stdout.splitlines()
        assert "a\\nerror: b\\x1b[31m" in line
        assert line.replace("\t", "").isprintable()


def test_names_of_an_invalid_plan_file_are_escaped(sidecar: Any, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text('version: 1\n"\\e[31m\\nerror: x": 2\n')
    done = sidecar("check", file)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert all(line.startswith(f"{file}:") for line in done.stdout.splitlines())
