"""Options of commands on accounts and API keys, as they are read."""

from datetime import timedelta

import pytest

from sidecar.commands.account_options import lifetime
from sidecar.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("365d", timedelta(days=365)),
        ("12h", timedelta(hours=12)),
        ("90m", timedelta(minutes=90)),
        (None, None),
    ],
)
def test_a_lifetime_is_in_days_hours_or_minutes(text: str | None, span: timedelta | None) -> None:
    assert lifetime(text) == span


@pytest.mark.parametrize("text", ["", "0d", "90", "90s", "1.5h", "-1d", "1_000d"])
def test_another_lifetime_is_an_error_that_names_the_flag(text: str) -> None:
    with pytest.raises(SettingsError, match="--grace"):
        lifetime(text, "--grace")
