"""The comparison: an honest table, and nothing left running."""

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.compare import report
from loadtests.compare.__main__ import arguments
from loadtests.compare.gateways import GATEWAYS, OURS
from loadtests.compare.measure import Row, Sample
from loadtests.processes import DidNotStart, Stack, free_port, wait_for_port

ROOT = Path(__file__).parents[2]


def a_row(gateway: str, *rates: float, void: str = "") -> Row:
    """What was measured of a gateway, with one sample for each rate."""
    samples = [Sample(rate, p50_us=1500, p99_us=4000, cpu=0.98, asked=1.0) for rate in rates]
    return Row(gateway, f"the {gateway}", void, samples, samples, samples, 50_000_000)


def test_the_table_shows_medians_and_the_ratio_to_ours() -> None:
    ours, peer = a_row(OURS, 10_000, 12_000, 11_000), a_row("peer", 5_500)
    assert report.cells(peer, ours) == [
        "the peer", "5,500", "0.50", "98%", "178.2",
        "1.50", "4.00", "1.50", "4.00", "5,500", "50", "1.00",
    ]  # fmt: skip
    assert report.cells(ours, ours)[1:3] == ["11,000", "1.00"]


def test_a_void_row_shows_why_and_no_number() -> None:
    cells = report.cells(a_row("peer", 5_500, void="3 of 9 answers were not 2xx"), None)
    assert cells[:2] == ["the peer", "void: 3 of 9 answers were not 2xx"]
    assert not any(cells[2:])


def test_no_ratio_is_shown_when_our_own_row_is_void() -> None:
    rows = [a_row(OURS, 10_000, void="it stopped"), a_row("peer", 5_500)]
    page = report.markdown(rows, ["Envoy: envoy is not installed"], 3, 8)
    assert "| the peer | 5,500 | – |" in page
    assert "Skipped: Envoy: envoy is not installed" in page


def test_an_unknown_gateway_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--only", "nginx,haproxy"])
    assert "there is no gateway haproxy" in capsys.readouterr().err


def test_every_gateway_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("loadtests.compare.gateways.find", lambda _: None)
    monkeypatch.setattr("loadtests.compare.gateways.COMPILED", tmp_path)
    for gateway in GATEWAYS:
        assert "is not installed: " in gateway.missing()


def test_the_plan_file_of_the_comparison_is_right() -> None:
    program = Path(sys.executable).parent / "sidecar"
    plans = ROOT / "loadtests" / "compare" / "plans.yaml"
    done = subprocess.run(
        [program, "check", plans], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failure_leaves_no_process_behind() -> None:
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port := free_port())]
    with pytest.raises(ZeroDivisionError), Stack() as stack:
        running = stack.start("server", server, core=0)
        wait_for_port(running, port)
        assert running.rss_bytes() > 1_000_000
        assert running.cpu_seconds() > 0
        _ = 1 / 0
    assert running.popen.poll() is not None
    assert not stack.directory.exists()


def test_what_does_not_come_up_is_told_with_its_last_words() -> None:
    with Stack() as stack:
        running = stack.start("broken", [sys.executable, "-c", "print('no such config')"])
        with pytest.raises(DidNotStart, match="no such config"):
            wait_for_port(running, free_port())
