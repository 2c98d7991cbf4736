"""grant: packs of the plan file, against a real Valkey."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.limits_plan import limits_plan


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    path = tmp_path / "plans.yaml"
    path.write_text(limits_plan())
    return path


def test_a_grant_is_made_once_per_id(sidecar: Any, valkey_url: str, plans: Path) -> None:
    order = ("grant", "metered", "boost", "--plans", plans, "--id", "order-1",
             "--redis", valkey_url)  # fmt: skip
    first, again = sidecar(*order), sidecar(*order)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert first.stdout.startswith("Account metered has 5 requests more on monthly, until 20")
    assert first.stdout.endswith(": order-1\n")
    assert again.stdout.startswith("Grant order-1 exists already, until 20")
    explained = sidecar("explain", "--plans", plans, "--account", "metered", "--redis", valkey_url,
                        "GET", "/x")  # fmt: skip
    assert "left 15, 5 of them from packs" in explained.stdout


def test_an_account_in_redis_gets_a_pack(sidecar: Any, valkey_url: str, plans: Path) -> None:
    made = ("accounts", "set", "--account", "globex", "--plan", "metered", "--redis", valkey_url)
    assert sidecar(*made).returncode == 0
    done = sidecar("grant", "globex", "boost", "--plans", plans, "--redis", valkey_url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Account globex has 5 requests more on monthly, until 20")


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("unknown", "boost"), 1, "account unknown is neither in the plan file nor in Redis"),
        (("metered", "none"), 2, 'the plan file has no pack "none"\ntry: write one of: boost'),
        (("metered", "boost", "--id", "a b"), 2, '--id: "a b" is not an id'),
    ],
)
def test_an_invalid_grant_is_an_error(
    sidecar: Any, valkey_url: str, plans: Path, arguments: tuple[str, ...], code: int, error: str
) -> None:
    done = sidecar("grant", *arguments, "--plans", plans, "--redis", valkey_url)
    assert done.returncode == code
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_18_grant_id_of_another_pack(sidecar: Any, valkey_url: str, tmp_path: Path) -> None:
    plans = tmp_path / "plans.yaml"
    small = "  boost: {meter: requests, units: 5,"
    assert small in limits_plan()
    large = "  large: {meter: requests, units: 500, lasts: 30d}\n"
    plans.write_text(limits_plan().replace(small, large + small))
    call = ("--plans", plans, "--id", "order-1", "--redis", valkey_url)
    assert sidecar("grant", "metered", "boost", *call).returncode == 0
    other = sidecar("grant", "metered", "large", *call)
    assert (other.returncode, other.stdout) == (1, "")
    assert 'a grant "order-1" of another pack' in other.stderr
    assert sidecar("grant", "metered", "boost", *call).returncode == 0
