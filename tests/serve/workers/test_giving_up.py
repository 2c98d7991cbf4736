"""Workers that cannot start: one message, the right exit code, no process left."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.several_workers import alive


def errors_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("flag", ["listen", "control"])
def test_an_address_in_use_names_the_flag(serve: Any, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text, _ = serve(workers=2, **{flag: address}).end()
    assert code == 2
    assert errors_of(text) == [f"error: --{flag}: {address} is in use"]
    assert f"try: choose another with --{flag} HOST:PORT" in text


def test_the_port_of_another_sidecar_is_in_use_although_workers_share_ports(serve: Any) -> None:
    first = serve(workers=2).ready()
    code, text, _ = serve(workers=2, listen=f"127.0.0.1:{first.port}").end()
    assert code == 2
    assert "is in use" in errors_of(text)[0]


def test_an_error_of_all_workers_is_reported_once(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_text("")
    code, text, _ = serve(workers=2, spool=file / "spool").end()
    assert code == 2
    [error] = errors_of(text)
    assert str(file) in error
    assert "try: name another directory with --spool DIR" in text
    assert "Traceback" not in text


def test_an_invalid_plan_file_is_reported_as_by_sidecar_check(serve: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nrouts: []\n")
    code, text, _ = serve(workers=2, plans=bad).end()
    assert code == 2
    assert all(f"{bad}:" in error for error in errors_of(text))
    assert text.count("try: run sidecar check FILE until it prints ok") == 1


def test_workers_that_die_before_they_serve_end_the_sidecar(serve: Any) -> None:
    here = serve(workers=2)
    seen: set[int] = set()
    while here.process.poll() is None:
        try:
            pids = here.pids()
        except FileNotFoundError:
            break
        for pid in set(pids) - seen:
            os.kill(pid, signal.SIGKILL)
            seen.add(pid)
    code, text, _ = here.end()
    assert code == 1
    [error] = errors_of(text)
    assert "ended 3 times in a row before it served, last with exit code -9" in error
    assert 3 <= len(seen) <= 6
    assert not any(alive(pid) for pid in seen)
