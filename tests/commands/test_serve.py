"""`sidecar serve`: it starts without Redis, stops cleanly, and reports why it cannot start."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.support.servers import free_port

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
    """Status and body, as soon as the port is open."""
    for _ in range(400):
        try:
            with LOOPBACK.open(url, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens on {url}")


def test_serve_starts_without_redis_is_not_ready_and_drains(spawn: Any, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_the_process(
    spawn: Any, tmp_path: Path, number: signal.Signals
) -> None:
    plans = tmp_path / "plans.yaml"
    os.mkfifo(plans)  # a plan file that blocks its reader
    process = spawn("serve", *flags(tmp_path, plans=plans))
    with open_for_writing(plans):
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in errors) == (0, False)
    assert json.loads(errors.splitlines()[-1])["event"] == "start_cancelled"
    assert not (tmp_path / "spool").exists()


def open_for_writing(pipe: Path) -> BinaryIO:
    """The writing end of a pipe, as soon as its reading end is open."""
    for _ in range(400):
        try:
            return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing reads {pipe}")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("flag", "variable"), [("listen", "SIDECAR_LISTEN"), ("control", "SIDECAR_CONTROL")]
)
def test_a_port_in_use_is_one_error_that_names_the_flag(
    sidecar: Any, tmp_path: Path, flag: str, variable: str, workers: int
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = sidecar("serve", *flags(tmp_path, workers=workers, **{flag: address}))
    assert done.returncode == 2
    assert problems(done.stderr) == [
        f"error: --{flag}: {address} is in use",
        f"try: choose another with --{flag} HOST:PORT ({variable})",
    ]


def test_an_invalid_plan_file_is_reported_as_by_check(sidecar: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(PLANS.read_text().replace("rate: 5/s", "rate: 5 per s"))
    done = sidecar("serve", *flags(tmp_path, plans=bad))
    assert done.returncode == 2
    assert f"error: {bad}:" in done.stderr
    assert done.stderr.splitlines()[-1] == "try: run sidecar check FILE until it prints ok"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "what"), [("nope.yaml", "does not exist"), ("folder", "is a directory")]
)
def test_a_plan_file_that_cannot_be_read_is_named_without_a_position(
    sidecar: Any, tmp_path: Path, name: str, what: str
) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / name
    lines = [f"error: --plans: {file} {what}", "try: name another with --plans FILE"]
    done = sidecar("serve", *flags(tmp_path, plans=file))
    assert (done.returncode, done.stderr.splitlines()) == (2, lines)
    done = sidecar("explain", "GET", "/", "--plans", file)
    assert (done.returncode, done.stderr.splitlines()) == (2, lines)
    done = sidecar("check", file)
    assert (done.returncode, done.stdout) == (1, f"{file}: {what}; name another\n")


def test_an_unknown_variable_beside_an_error_is_a_warning(sidecar: Any, tmp_path: Path) -> None:
    done = sidecar("serve", *flags(tmp_path, listen="8080"), SIDECAR_LISEN="127.0.0.1:1")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("try: ")] == [
        'error: --listen (SIDECAR_LISTEN): "8080" is not an address',
        "warning: SIDECAR_LISEN is not a setting and has no effect",
    ]
    assert "try: write SIDECAR_LISTEN, or remove it" in done.stderr


def problems(errors: str) -> list[str]:
    """The output without log lines."""
    return [line for line in errors.splitlines() if not line.startswith("{")]


def test_a_spool_that_cannot_be_written_is_reported_once_with_a_remedy(
    sidecar: Any, tmp_path: Path
) -> None:
    file = tmp_path / "a-file"
    file.write_text("")
    # root may write anywhere but below a file, in place of one, and in the kernel's own folders
    name_another = "name another directory with --spool DIR (SIDECAR_SPOOL)"
    remedies = {
        file / "spool": (": a part of its path is a file", name_another),
        file: (": it is a file", name_another),
        Path("/proc/sidecar-spool"): ("", f"make it writable for this user, or {name_another}"),
    }
    for spool, (cause, remedy) in remedies.items():
        done = sidecar("serve", *flags(tmp_path, spool=spool))
        assert done.returncode == 2
        error, advice = problems(done.stderr)
        assert error.startswith(f"error: --spool: {spool} is not writable: ")
        assert error.endswith(cause)
        assert advice == f"try: {remedy}"
    assert file.read_text() == ""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("listen", "control", "both"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8080"),
        ("0.0.0.0:8080", "127.0.0.1:8080", "0.0.0.0:8080 and 127.0.0.1:8080"),
    ],
)
def test_one_address_for_both_ports_is_an_error(
    sidecar: Any, tmp_path: Path, listen: str, control: str, both: str, workers: int
) -> None:
    done = sidecar("serve", *flags(tmp_path, listen=listen, control=control, workers=workers))
    assert done.returncode == 2
    assert problems(done.stderr) == [
        f"error: --listen (SIDECAR_LISTEN) and --control (SIDECAR_CONTROL): must differ: {both}",
        "try: give each its own port",
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_misspelt_variable_is_logged_once(spawn: Any, tmp_path: Path, workers: int) -> None:
    control = f"127.0.0.1:{free_port()}"
    process = spawn(
        "serve", *flags(tmp_path, control=control, workers=workers),
        SIDECAR_LISEN="127.0.0.1:1", SIDECAR_SERVICE_HOST="10.0.0.1",
    )  # fmt: skip
    assert ask(f"http://{control}/healthz") == (200, b"ok")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    logged = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    warnings = [line["error"] for line in logged if line["event"] == "unknown_variable"]
    assert warnings == [
        "SIDECAR_LISEN is not a setting and has no effect; write SIDECAR_LISTEN, or remove it"
    ]


def test_a_misspelt_variable_is_reported_with_the_missing_setting(sidecar: Any) -> None:
    done = sidecar("serve", "--plans", PLANS, SIDECAR_UPSTREEM="http://127.0.0.1:3000")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --upstream (SIDECAR_UPSTREAM): is missing",
        "try: write --upstream URL, or set SIDECAR_UPSTREAM",
        "warning: SIDECAR_UPSTREEM is not a setting and has no effect",
        "try: write SIDECAR_UPSTREAM, or remove it",
    ]
