"""keys and accounts against a real Valkey."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.identity import key_digest
from sidecar.core.model import Key, Team
from sidecar.stores import RedisDirectory, Wire


def find(url: str, secret: str) -> Key | None:
    """The API key of this secret, as a sidecar reads it."""

    async def read() -> Key | None:
        wire = Wire(url, timeout_s=1.0)
        await wire.start()
        try:
            directory = RedisDirectory(wire, "qs", lambda _: None)
            return await directory.find(key_digest(secret.encode()))
        finally:
            await wire.stop()

    return asyncio.run(read())


def test_a_created_key_is_valid_until_it_is_revoked(sidecar: Any, valkey_url: str) -> None:
    made = sidecar(
        "keys", "create", "--account", "acme", "--id", "k1", "--plan", "pro",
        "--timezone", "Europe/Paris", "--anchor", "2026-01-15", "--redis", valkey_url,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert "shown only now" in made.stderr
    key = find(valkey_url, secret)
    assert key is not None
    assert (key.id, key.account.id, key.account.plan) == ("k1", "acme", "pro")
    assert (key.account.timezone, str(key.account.anchor)) == ("Europe/Paris", "2026-01-15")

    listed = sidecar("keys", "list", SIDECAR_REDIS=valkey_url)
    assert listed.stdout.startswith("acme\tk1\tsha256:")
    assert secret not in listed.stdout

    revoked = sidecar("keys", "revoke", "--account", "acme", "--id", "k1", "--redis", valkey_url)
    assert revoked.returncode == 0
    assert find(valkey_url, secret) is None
    assert sidecar("keys", "list", "--account", "acme", SIDECAR_REDIS=valkey_url).stdout == ""


def test_expires_sets_the_lifetime_of_a_key(sidecar: Any, valkey_url: str) -> None:
    sidecar(
        "keys", "create", "--account", "a", "--plan", "p", "--expires", "30d", "--redis", valkey_url
    )
    listed = sidecar("keys", "list", "--redis", valkey_url)
    assert listed.stdout.rstrip().endswith(("in 29 days", "in 30 days"))


def test_a_key_of_an_unknown_account_is_created_with_a_note(sidecar: Any, valkey_url: str) -> None:
    made = sidecar("keys", "create", "--account", "acme", "--redis", valkey_url)
    assert made.returncode == 0
    assert "note: account acme is not in Redis" in made.stderr


def test_a_key_has_a_team_of_its_account(sidecar: Any, valkey_url: str) -> None:
    made = sidecar(
        "keys", "create", "--account", "acme", "--id", "k1", "--plan", "pro",
        "--teams", "search=40%,ads=30%:keep", "--team", "ads", "--redis", valkey_url,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    key = find(valkey_url, made.stdout.strip())
    assert key is not None
    assert (key.team, key.counted_team) == ("ads", "ads")
    assert key.account.teams == (Team("search", 40), Team("ads", 30, lends=False))
    assert "\tteam=ads\n" in sidecar("keys", "list", SIDECAR_REDIS=valkey_url).stdout
    listed = sidecar("accounts", "list", "--redis", valkey_url).stdout
    assert "teams=search=40%,ads=30%:keep" in listed
    sidecar("accounts", "set", "acme", "--teams", "none", "--redis", valkey_url)
    alone = find(valkey_url, made.stdout.strip())
    assert alone is not None
    assert (alone.account.teams, alone.counted_team) == ((), "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("accounts", "set", "--teams", "a=60%,b=41%"), "guarantees 101% together"),
        (("accounts", "set", "--teams", "search"), "write it like search=40%,ads=30%:keep"),
        (("keys", "create", "--team", "mail"), 'has no team "mail" (its teams: search'),
        (("keys", "create", "--team", "a b"), "is not an id"),
    ],
)
def test_invalid_teams_are_an_error_with_a_remedy(
    sidecar: Any, valkey_url: str, arguments: tuple[str, ...], why: str
) -> None:
    sidecar("accounts", "set", "acme", "--plan", "p", "--teams", "search=40%",
            "--redis", valkey_url)  # fmt: skip
    done = sidecar(*arguments, "--account", "acme", "--redis", valkey_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert sidecar("keys", "list", SIDECAR_REDIS=valkey_url).stdout == ""


def test_an_account_is_suspended_and_resumed(sidecar: Any, valkey_url: str) -> None:
    secret = sidecar(
        "keys", "create", "--account", "acme", "--plan", "pro", "--redis", valkey_url
    ).stdout.strip()
    sidecar("accounts", "set", "acme", "--suspend", "--redis", valkey_url)
    suspended = find(valkey_url, secret)
    assert suspended is not None
    assert suspended.account.suspended
    assert "status=suspended" in sidecar("accounts", "list", "--redis", valkey_url).stdout
    sidecar("accounts", "set", "acme", "--resume", "--redis", valkey_url)
    resumed = find(valkey_url, secret)
    assert resumed is not None
    assert not resumed.account.suspended


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ("keys create --account a/b", 2, '--account: "a/b" is not an id'),
        ("keys create --account a --id {x}", 2, '--id: "{x}" is not an id'),
        ("keys create --account a --expires soon", 2, '--expires: "soon" is not a lifetime'),
        ("keys create --account a --anchor 31.1.", 2, '--anchor: "31.1." is not a date'),
        ("keys create --account a --timezone Mars", 2, '--timezone: "Mars" is not a time zone'),
        ("keys revoke --account a --id k9", 1, 'account a has no key "k9"'),
        ("accounts set --account a", 2, "nothing to set"),
        ("accounts set --account a --suspend", 1, "account a is not in Redis"),
    ],
)
def test_invalid_arguments_are_an_error(
    sidecar: Any, valkey_url: str, arguments: str, code: int, error: str
) -> None:
    done = sidecar(*arguments.split(), "--redis", valkey_url)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert error in done.stderr


def test_an_unavailable_redis_is_an_error_without_the_password(
    sidecar: Any, tmp_path: Path
) -> None:
    done = sidecar("keys", "list", "--redis", "redis://u:hunter2@127.0.0.1:1/0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --redis (SIDECAR_REDIS): 127.0.0.1:1 refuses")
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_invalid_settings_of_the_data_path_do_not_matter(sidecar: Any, valkey_url: str) -> None:
    done = sidecar(
        "keys", "list", SIDECAR_REDIS=valkey_url, SIDECAR_LISTEN="8080",
        SIDECAR_UPSTREAM="https://api", SIDECAR_UPSTREAM_CA="ca.pem",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
