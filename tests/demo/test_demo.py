"""The demo from start to end: each command that it prints is run."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.valkey import free_port


def start(spawn: Any, listen: str = "") -> tuple[Any, list[str], list[str]]:
    """A running demo, what it printed, and its commands."""
    listen = listen or f"127.0.0.1:{free_port()}"
    demo = spawn("demo", "--listen", listen, "--control", f"127.0.0.1:{free_port()}")
    printed: list[str] = []
    while not printed or "Ctrl-C stops everything" not in printed[-1]:
        line = demo.stdout.readline()
        assert line, demo.stderr.read()
        printed.append(line.rstrip("\n"))
    return demo, printed, [line.strip() for line in printed if line.startswith("    ")]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run_command(line: str) -> str:
    """The output of a command, run in another directory."""
    done = subprocess.run(
        ["bash", "-c", line], cwd="/", capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_five_commands_show_what_they_promise_and_ctrl_c_leaves_nothing(
    spawn: Any, no_proxy: None
) -> None:
    demo, printed, lines = start(spawn)
    assert len(lines) == 5
    allowed, burst, critical, feature, events = lines

    text = run_command(allowed)
    assert "HTTP/1.1 200" in text
    assert re.search(r"^RateLimit: ", text, re.MULTILINE | re.IGNORECASE)
    text = run_command(burst)
    assert "429" in text.split("HTTP/1.1")[0]
    assert "HTTP/1.1 429" in text
    assert "how_to_fix" in text
    assert "HTTP/1.1 200" in run_command(critical)
    text = run_command(feature)
    assert "HTTP/1.1 403" in text
    assert "Plan pro does" in text
    assert '"route":"login"' in run_command(events)

    started = children(demo.pid)
    assert started
    folder = Path(next(line.split()[1] for line in printed if "events  " in line)).parent
    assert folder.is_dir()
    demo.send_signal(signal.SIGINT)
    out, errors = demo.communicate(timeout=20)
    assert demo.returncode == 0, errors
    assert errors == ""
    assert re.search(r"^fred +login +critical +allow", out, re.MULTILINE)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert not folder.exists()


def test_the_commands_work_with_a_unix_socket(
    spawn: Any, no_proxy: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "demo.sock"
    demo, printed, lines = start(spawn, f"unix:{path}")
    assert printed[0] == f"Quota Sidecar demo: unix:{path}"
    assert "HTTP/1.1 200" in run_command(lines[0])
    assert " 429 " in run_command(lines[1])
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(20) == 0
    assert not path.exists()


def test_sigterm_stops_the_demo(spawn: Any) -> None:
    demo, _, _ = start(spawn)
    started = children(demo.pid)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(20) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.parametrize("flag", ["--listen", "--control"])
def test_a_port_in_use_names_the_flag(sidecar: Any, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        other = "--control" if flag == "--listen" else "--listen"
        done = sidecar("demo", flag, address, other, f"127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {flag}: {address} is in use\n"
        f'try: choose another with {flag} HOST:PORT (make demo ARGS="{flag} HOST:PORT")\n'
    )


def test_on_a_terminal_decisions_are_a_live_table(spawn: Any, no_proxy: None) -> None:
    master, terminal = os.openpty()
    demo = spawn(
        "demo", "--listen", f"127.0.0.1:{free_port()}", "--control", f"127.0.0.1:{free_port()}",
        stdout=terminal, TERM="xterm", COLUMNS="120",
    )  # fmt: skip
    os.close(terminal)
    output = ""
    requested = False
    while "fred" not in output.partition("decisions so far: 1")[2]:
        output += os.read(master, 65_536).decode()
        if not requested and "decisions so far: 0" in output:
            requested = True
            line = next(row for row in output.splitlines() if row.startswith("    curl"))
            run_command(line.strip())
    demo.send_signal(signal.SIGINT)
    while True:
        try:
            if not os.read(master, 65_536):
                break
        except OSError:  # the other end is closed
            break
    assert demo.wait(20) == 0
    os.close(master)
