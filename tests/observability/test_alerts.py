"""Each alert fires on what it is about and is silent in the calm case: promtool's unit tests."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.docs.test_pages import anchors
from tests.observability.tools import PROMTOOL, ROOT, RULES, needs_prometheus

RUNBOOK: Final = re.compile(r"https://quota-sidecar\.dev/(docs/[\w/-]+)#(\w+)")
OUTCOME: Final = 'route="{}", class="{}", plan="free", outcome="{}"'
DAY: Final = 86_400

# The series that make an alert fire, by metric and labels, in promtool's notation with one value a
# minute; and the minute at which it fires. The epoch is the time 0 of certificates and plan files.
FIRES: Final[dict[str, tuple[dict[str, str], int]]] = {
    "SidecarUsageEventsLost": ({"sidecar_spool_dropped_total{}": "0x5 7x20"}, 8),
    "SidecarUsageEventsMissing": ({"sidecar_spool_missing_events_total{}": "0x5 3x20"}, 8),
    "SidecarSpoolFull": ({"sidecar_spool_accepting{}": "1x5 0x20"}, 8),
    "SidecarJournalNotOnDisk": ({"sidecar_journal_dropped_total{}": "0x5 2x20"}, 8),
    "SidecarSpoolFilling": (
        {"sidecar_spool_bytes{}": "500x5 900x20", "sidecar_spool_max_bytes{}": "1000x30"}, 12,
    ),
    "SidecarSpoolBacklogGrowing": ({"sidecar_spool_backlog_events{}": "0+200x60"}, 40),
    "SidecarSinkBehind": ({'sidecar_sink_lag_events{sink="redis"}': "0x5 5000x40"}, 30),
    "SidecarDown": ({"up{}": "1x10 0x20", "sidecar_spool_max_bytes{}": "1000x10 stale"}, 14),
    "SidecarCriticalRequestsFail": (  # the first one: its count did not exist before
        {f"sidecar_requests_total{{{OUTCOME.format('login', 'critical', 'upstream_refused')}}}":
         "_x9 1x20"}, 10,
    ),
    "SidecarInternalErrors": (
        {f"sidecar_requests_total{{{OUTCOME.format('rest', 'standard', 'internal-error')}}}":
         "1x9 4x20"}, 12,
    ),
    "SidecarOverheadHigh": (
        {'sidecar_overhead_seconds_bucket{le="0.05"}': "0+100x40",
         'sidecar_overhead_seconds_bucket{le="0.1"}': "0+140x40",
         'sidecar_overhead_seconds_bucket{le="+Inf"}': "0+140x40"}, 30,
    ),
    "SidecarUnauthorizedSurge": (
        {f"sidecar_requests_total{{{OUTCOME.format('-', '-', 'unknown-key')}}}":
         "0+6x60 360+600x40"}, 80,
    ),
    "SidecarShedding": ({'sidecar_shed_total{class="standard"}': "0+60x30"}, 20),
    "SidecarConnectionsRefused": (
        {'sidecar_connections_refused_total{reason="full"}': "0+60x30"}, 20,
    ),
    "SidecarJobsFail": ({'sidecar_jobs_handled_total{state="failed"}': "0+1x30"}, 20),
    "SidecarRedisDown": ({"sidecar_store_up{}": "1x5 0x20"}, 9),
    "SidecarRedisSlow": ({"sidecar_store_timeouts_total{}": "0+300x30"}, 20),
    "SidecarSettlementsDropped": ({"sidecar_settlements_dropped_total{}": "0x5 9x20"}, 8),
    "SidecarPlanFileInvalid": (
        {"sidecar_config_failed_since_timestamp_seconds{}": "0x5 300x20"}, 8,
    ),
    "SidecarPlanFilesDiffer": (
        {'sidecar_config_info{version="a"}': "1x40", 'sidecar_config_info{version="b"}': "1x40"},
        20,
    ),
    "SidecarCertificateExpiresSoon": (
        {"sidecar_tls_certificate_expiry_timestamp_seconds{}": f"{3 * DAY}x20"}, 10,
    ),
    "SidecarCertificateExpires": (
        {"sidecar_tls_certificate_expiry_timestamp_seconds{}": f"{DAY // 2}x20"}, 10,
    ),
    "SidecarCertificateRejected": ({"sidecar_tls_certificate_ok{}": "1x5 0x20"}, 15),
    "SidecarWorkersMissing": (
        {"sidecar_workers_serving{}": "2x5 1x20", "sidecar_workers{}": "2x30"}, 12,
    ),
}  # fmt: skip
FOLLOW: Final = {"SidecarCertificateExpires": {"SidecarCertificateExpiresSoon"}}  # fire as well

# A sidecar with two workers and TLS that serves 10 requests per second: refusals, jobs, a wrong
# API key now and then, and a sink that is always a few events behind.
CALM: Final = {
    "up{}": "1x180",
    f"sidecar_requests_total{{{OUTCOME.format('login', 'critical', 'ok')}}}": "0+60x180",
    f"sidecar_requests_total{{{OUTCOME.format('login', 'critical', 'critical')}}}": "0+6x180",
    f"sidecar_requests_total{{{OUTCOME.format('rest', 'standard', 'ok')}}}": "0+600x180",
    f"sidecar_requests_total{{{OUTCOME.format('rest', 'standard', 'quota')}}}": "0+60x180",
    f"sidecar_requests_total{{{OUTCOME.format('rest', 'standard', 'client_gone')}}}": "0+2x180",
    f"sidecar_requests_total{{{OUTCOME.format('-', '-', 'unknown-key')}}}": "0+6x180",
    'sidecar_overhead_seconds_bucket{le="0.001"}': "0+598x180",
    'sidecar_overhead_seconds_bucket{le="0.05"}': "0+600x180",
    'sidecar_overhead_seconds_bucket{le="+Inf"}': "0+600x180",
    'sidecar_shed_total{class="standard"}': "0x180",
    'sidecar_shed_total{class="deferrable"}': "0+60x180",
    'sidecar_connections_refused_total{reason="full"}': "0x180",
    'sidecar_connections_refused_total{reason="draining"}': "0+1x180",
    'sidecar_jobs_handled_total{state="done"}': "0+6x180",
    'sidecar_jobs_handled_total{state="failed"}': "2x180",
    "sidecar_store_up{}": "1x60 0x1 1x119",  # a failover that ends within a minute
    "sidecar_store_timeouts_total{}": "0x60 30x120",
    "sidecar_settlements_dropped_total{}": "0x180",
    "sidecar_journal_dropped_total{}": "0x180",
    "sidecar_spool_dropped_total{}": "0x180",
    "sidecar_spool_missing_events_total{}": "0x180",
    "sidecar_spool_accepting{}": "1x180",
    "sidecar_spool_bytes{}": "300+1x180",
    "sidecar_spool_max_bytes{}": "1000x180",
    "sidecar_spool_backlog_events{}": "20x60 3000-100x25 20x95",  # a sink that catches up
    'sidecar_sink_lag_events{sink="redis"}': "20x60 3000x5 20x115",
    "sidecar_config_failed_since_timestamp_seconds{}": "0x180",
    'sidecar_config_info{version="old"}': "1x60 stale",
    'sidecar_config_info{version="new"}': "_x55 1x125",  # a rollout of five minutes
    "sidecar_tls_certificate_expiry_timestamp_seconds{}": f"{30 * DAY}x180",
    "sidecar_tls_certificate_ok{}": "1x180",
    "sidecar_workers{}": "2x180",
    "sidecar_workers_serving{}": "2x60 1x1 2x119",  # a restart
}


def rules() -> dict[str, dict[str, Any]]:
    """The alerts of the rule files, by name."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def series(given: dict[str, str]) -> list[dict[str, str]]:
    """The series, as those of one sidecar."""
    common = 'job="shop", namespace="prod", instance="a"'
    return [
        {"series": re.sub(r"{(.*)}", lambda found: f"{{{common}, {found[1]}}}", name)
         .replace(", }", "}"), "values": values}
        for name, values in given.items()
    ]  # fmt: skip


def case(
    given: dict[str, str], at: dict[int, set[str]], states: str = "firing", *, since: str = "1m"
) -> dict[str, Any]:
    """A promtool test: which alerts have been in these states since then, at each minute."""
    seen = f'last_over_time(ALERTS{{alertstate=~"{states}"}}[{since}])'
    return {
        "interval": "1m",
        "input_series": series(given),
        "promql_expr_test": [
            {
                "expr": f"count by (alertname) ({seen})",
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)
                ],
            }
            for minute, names in at.items()
        ],
    }


def promtool(*arguments: str, text: str = "") -> None:
    """Run promtool. Fails with its output if it finds something."""
    result = subprocess.run(
        [PROMTOOL, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def run_cases(directory: Path, cases: list[dict[str, Any]]) -> None:
    test = {"rule_files": [str(path) for path in RULES], "evaluation_interval": "1m"}
    path = directory / "test.yaml"
    path.write_text(json.dumps(test | {"tests": cases}))  # JSON is YAML
    promtool("test", "rules", str(path))


@needs_prometheus
def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", *map(str, RULES))


@needs_prometheus
def test_each_alert_fires_and_no_other_one_does(tmp_path: Path) -> None:
    assert FIRES.keys() == rules().keys()
    cases = [
        case(given, {minute: {name} | FOLLOW.get(name, set())})
        for name, (given, minute) in FIRES.items()
    ]
    run_cases(tmp_path, cases)


@needs_prometheus
def test_no_alert_is_pending_for_long_or_fires_in_the_calm_case(tmp_path: Path) -> None:
    queried = set(re.findall(r"\bsidecar_\w+|\bup\b", json.dumps(rules())))
    assert queried <= {name.partition("{")[0] for name in CALM}
    at = {minute: set[str]() for minute in (30, 50, 120, 179)}
    run_cases(tmp_path, [case(CALM, {179: set()}, since="179m"), case(CALM, at, "firing|pending")])


@pytest.mark.parametrize("name", rules())
def test_each_alert_has_a_runbook_that_exists(name: str) -> None:
    rule = rules()[name]
    page, anchor = RUNBOOK.fullmatch(rule["annotations"]["runbook_url"]).groups()  # type: ignore[union-attr]
    assert anchor == name.lower()
    assert anchor in anchors(ROOT / f"{page}.md")
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_the_page_about_alerts_lists_each_of_them_with_its_severity() -> None:
    page = (ROOT / "docs" / "how-to" / "set-up-alerts.md").read_text()
    wake, _, ticket = page.partition("**Open a ticket:**")
    listed = {
        name: severity
        for text, severity in ((wake, "critical"), (ticket, "warning"))
        for name in re.findall(r"^\| \[`(Sidecar\w+)`\]", text, re.MULTILINE)
    }
    assert listed == {name: rule["labels"]["severity"] for name, rule in rules().items()}
