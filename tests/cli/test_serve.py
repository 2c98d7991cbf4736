"""`sidecar serve`: that it starts without Redis, stops cleanly, and says why it cannot start."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.valkey import free_port

PLANS = Path(__file__).parent.parent.parent / "examples" / "plans.yaml"
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def flags(tmp_path: Path, **other: object) -> list[object]:
    given: dict[str, object] = {
        "plans": PLANS,
        "upstream": "http://127.0.0.1:1",
        "listen": f"127.0.0.1:{free_port()}",
        "control": f"127.0.0.1:{free_port()}",
        "redis": "redis://127.0.0.1:1/0",
        "spool": tmp_path / "spool",
    } | other
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def ask(url: str) -> tuple[int, bytes]:
    """Status and body, as soon as somebody listens."""
    for _ in range(400):
        try:
            with LOOPBACK.open(url, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens on {url}")


def test_serve_starts_without_redis_says_that_it_is_not_ready_and_drains(
    spawn: Any, tmp_path: Path
) -> None:
    control = f"127.0.0.1:{free_port()}"
    process = spawn("serve", *flags(tmp_path, control=control))
    assert ask(f"http://{control}/healthz") == (200, b"ok")
    status, body = ask(f"http://{control}/readyz")
    assert status == 503
    assert json.loads(body)["reasons"][0].startswith("redis: ")
    assert b"sidecar_store_up 0.0" in ask(f"http://{control}/metrics")[1]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("flag", "variable"), [("listen", "SIDECAR_LISTEN"), ("control", "SIDECAR_CONTROL")]
)
def test_a_port_in_use_is_one_plain_sentence_that_names_the_flag(
    sidecar: Any, tmp_path: Path, flag: str, variable: str, workers: int
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = sidecar("serve", *flags(tmp_path, workers=workers, **{flag: address}))
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert told == [
        f"error: {address} is in use; choose another with --{flag} HOST:PORT ({variable})"
    ]


def test_a_wrong_plan_file_is_told_like_check_does(sidecar: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(PLANS.read_text().replace("rate: 5/s", "rate: 5 per s"))
    done = sidecar("serve", *flags(tmp_path, plans=bad))
    assert done.returncode == 2
    assert f"error: {bad}:" in done.stderr
    assert "try: sidecar check FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_spool_that_cannot_be_written_names_the_flag(sidecar: Any, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_text("")
    # root may write anywhere but below a file, in place of one, and in the kernel's own folders
    for spool in (file / "spool", file, Path("/proc/sidecar-spool")):
        done = sidecar("serve", *flags(tmp_path, spool=spool))
        assert done.returncode == 2
        told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert len(told) == 2
        assert told[0].startswith("error: ")
        assert str(spool) in told[0]
        assert told[1] == "try: another directory with --spool DIR (SIDECAR_SPOOL)"
    assert file.read_text() == ""
