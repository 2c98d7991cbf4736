"""The pages on usage events have the members that the code writes, and a script that works."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.costs import HeaderSource, Unreadable
from sidecar.core.events.build import notice_event, overage_event, refusal_event, usage_event
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Key, Team
from sidecar.core.readings import Reading
from sidecar.core.reasons import NO_OVERAGE, Overage, Reason, ThresholdCrossing
from sidecar.core.settlement import Outcome, OutcomeReason
from tests.support.builders import a_book

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "usage-events.md").read_text()
BILLING = (ROOT / "docs" / "how-to" / "bill-from-usage-events.md").read_text()
TIME = "2026-11-23T08:30:00.123Z"
KEY = Key("k1", Account("acme", "pro", teams=(Team("ads", 40),)), "ads")


def documented(section: str) -> set[str]:
    """The members in the table of a section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def a_request(**changes: Any) -> dict[str, Any]:
    entitlement = next(iter(a_book().entitlements.values()))
    settles = (("requests", HeaderSource(b"x")), ("tokens", HeaderSource(b"y")))
    late = replace(entitlement, settles=settles)
    reading = Reading({"requests": 5}, {"tokens": Unreadable.MISSING}, {"requests": 9})
    outcome = Outcome(200, OutcomeReason.OK, 41, 512, 2048, reading)
    given = {
        "id": "019", "plan_version": "sha256:ab",
        "overage": Overage((("requests", 3),), (("monthly", 3),)), "overage_pending": True,
        "periods": {"monthly": "2026-11-01T00:00:00Z/2026-12-01T00:00:00Z"}, **changes,
    }  # fmt: skip
    return usage_event(
        source="/sidecar/shop", time=TIME, key=KEY, entitlement=late, method="GET",
        outcome=outcome, **given,
    )  # fmt: skip


def test_the_attributes_are_those_of_an_event() -> None:
    constant = {"specversion", "type", "datacontenttype", "data"}  # in the example of the page
    assert documented("Attributes") == a_request().keys() - constant
    assert all(f'"{name}"' in PAGE for name in constant)


def test_the_members_of_a_request_are_documented() -> None:
    assert documented("api.request.v1") == a_request()["data"].keys() | {"job"}


def test_the_members_of_a_refusal_are_documented() -> None:
    refusal = refusal_event(
        id="019", source="/sidecar/shop", time=TIME, key=KEY, entitlement=None,
        plan_version="sha256:ab", status=429, reason=Reason.QUOTA,
    )  # fmt: skip
    assert documented("api.refusal.v1") == refusal["data"].keys()


def test_the_members_of_an_overage_are_documented() -> None:
    event = overage_event(
        source="/sidecar/shop", time=TIME, key=KEY, plan_version="sha256:ab",
        entitlement=next(iter(a_book().entitlements.values())), request_id="019", clock="redis",
        overage=Overage((("requests", 3),), (("monthly", 3),)), periods={},
    )  # fmt: skip
    assert documented("account.overage.v1") == event["data"].keys()


def test_the_members_of_a_notice_are_documented() -> None:
    limit = QuotaLimit("monthly", "requests", 1000, "month", 1000, (80,), "key")
    notice = notice_event(
        source="/sidecar/shop", time=TIME, key=KEY, plan_version="sha256:ab",
        entitlement=next(iter(a_book().entitlements.values())),
        crossing=ThresholdCrossing(limit, percent=80, used=800, period_end_us=0),
    )  # fmt: skip
    assert documented("account.notice.v1") == notice["data"].keys()


def test_the_page_lists_every_type_reason_and_outcome() -> None:
    code = "".join(path.read_text() for path in (ROOT / "sidecar").rglob("*.py"))
    types = set(re.findall(r'"((?:api|account|sidecar)\.[a-z.]+\.v1)"', code))
    listed = set(re.findall(r"^\| `([a-z.]+\.v1)` \|", PAGE, re.MULTILINE))
    assert types == listed
    assert all(f"| `{reason}` |" in PAGE for reason in Unreadable)
    assert all(f"`{reason}`" in PAGE for reason in OutcomeReason)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    [code] = re.findall(r"^ {3}```python\n(.*?)^ {3}```$", BILLING, re.MULTILINE | re.DOTALL)
    file = tmp_path / "bill.py"
    file.write_text("".join(line[3:] or "\n" for line in code.splitlines(keepends=True)))
    return file


def test_the_billing_script_counts_each_billable_event_once(script: Path) -> None:
    events = [a_request(), a_request(), a_request(id="020", overage=NO_OVERAGE)]
    late = overage_event(
        source="/sidecar/shop", time=TIME, key=KEY, plan_version="sha256:ab",
        entitlement=next(iter(a_book().entitlements.values())), request_id="020", clock="redis",
        overage=Overage((("requests", 4),), (("monthly", 4),)), periods={},
    )  # fmt: skip
    free = a_request(id="021")
    free["data"]["billable"] = False
    refusal = {**a_request(id="022"), "type": "api.refusal.v1"}
    lines = "".join(json.dumps(event) + "\n" for event in (*events, free, refusal, late, late))
    done = subprocess.run(
        [sys.executable, script], input=lines, capture_output=True, text=True, check=True
    )
    [row] = done.stdout.splitlines()
    account, _, month, meter, usage, overage = row.split("\t")
    assert (account, month, meter, usage) == ("acme", "2026-11", "requests", "10")
    assert int(overage) == 3 + 4
