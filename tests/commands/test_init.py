"""`sidecar init`: the first plan file, the first API key, and the line that runs them."""

import os
import pty
import re
import select
import shlex
import subprocess
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.config.loading import load, parse
from sidecar.config.starter import MOST_FREE, Starter, starter_plan
from tests.commands.test_serve import ask
from tests.support.commands import SIDECAR
from tests.support.servers import free_port

KEY = re.compile(r"qs_[A-Za-z0-9_-]{43}")


def test_without_a_terminal_the_defaults_are_taken_and_only_the_key_is_on_stdout(
    sidecar: Any, tmp_path: Path
) -> None:
    done = sidecar("init")
    assert done.returncode == 0, done.stderr
    key = done.stdout.removesuffix("\n")
    assert KEY.fullmatch(key)
    assert key not in done.stderr
    text = (tmp_path / "plans.yaml").read_text()
    assert key not in text
    assert sha256(key.encode()).hexdigest() in text
    book = load(tmp_path / "plans.yaml")
    assert book.accounts["acme"].plan == "free"
    assert "1_000/month" in text
    assert "--upstream http://127.0.0.1:3000 " in done.stderr
    checked = sidecar("check", "--strict", "plans.yaml")
    assert checked.returncode == 0, checked.stdout


def test_two_runs_create_two_keys(sidecar: Any) -> None:
    keys = {sidecar("init", "--plans", f"{number}.yaml").stdout for number in range(2)}
    assert len(keys) == 2


@settings(max_examples=40)
@given(free=st.integers(1, MOST_FREE), account=st.sampled_from(["acme", "our-team", "null", "1"]))
@example(free=1, account="acme")
@example(free=10, account="acme")
@example(free=11, account="on")
@example(free=MOST_FREE, account="acme")
def test_each_size_of_the_free_plan_gives_a_file_without_warnings(free: int, account: str) -> None:
    book = parse(starter_plan(Starter("p.yaml", account, "a" * 64, free)).encode(), "p.yaml")
    assert book.warnings == ()
    assert list(book.plans) == ["free", "pro"]
    assert len(book.accounts) == 2
    assert account in book.accounts


def test_the_section_for_anonymous_requests_works_without_its_mark() -> None:
    text = starter_plan(Starter("p.yaml", "acme", "a" * 64, 1_000))
    book = parse(text.replace("# anonymous:", "anonymous:").encode(), "p.yaml")
    assert book.anonymous_plan == "free"


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_nothing_that_exists_is_overwritten(sidecar: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "plans.yaml"
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere.yaml")
    else:
        path.mkdir()
    done = sidecar("init")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: --plans: plans.yaml exists",
        "try: name another with --plans FILE, or move it",
    ]
    assert not (tmp_path / "elsewhere.yaml").exists()
    assert kind != "file" or path.read_text() == "mine"


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [
        ("--free", "many", "--free: \"many\" is not a number of requests"),
        ("--free", "0", "--free: \"0\" is not a number of requests"),
        ("--free", "10_000_000_000", "is not a number of requests"),
        ("--free", "9" * 5_000, "is not a number of requests"),
        ("--account", "two words", "--account: \"two words\" is not an id"),
        ("--upstream", "127.0.0.1:3000", "--upstream (SIDECAR_UPSTREAM): \"127.0.0.1:3000\""),
        ("--plans", "no/such/plans.yaml", "cannot be written: no such file or directory"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_and_writes_nothing(
    sidecar: Any, tmp_path: Path, flag: str, value: str, problem: str
) -> None:
    done = sidecar("init", flag, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert problem in done.stderr
    assert list(tmp_path.glob("**/*.yaml")) == []


def on_a_terminal(
    directory: Path, environment: dict[str, str], *answers: str
) -> tuple[int, str, str]:
    """Run init in a terminal: the exit code, what was shown, and stdout, a pipe."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [SIDECAR, "init"], stdin=slave, stderr=slave, stdout=subprocess.PIPE, cwd=directory,
        env=environment, text=True, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown, left = "", list(answers)
    try:
        while select.select([master], [], [], 30)[0]:
            try:
                data = os.read(master, 4_096)
            except OSError:  # the other end is closed
                break
            shown += data.decode()
            if left and shown.endswith("]: "):
                os.write(master, left.pop(0).encode() + b"\n")
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return process.returncode, shown, out


def test_on_a_terminal_it_asks_three_questions_and_again_after_a_wrong_answer(
    tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    code, shown, out = on_a_terminal(tmp_path, environment(), "", "lots", "2,500", "globex")
    assert code == 0, shown
    assert re.findall(r"(.*\?) \[", shown) == [
        "Where is your API?",
        "How many requests per month are free?",
        "How many requests per month are free?",
        "What is your first account called?",
    ]
    assert '"lots" is not a number of requests' in shown
    assert KEY.fullmatch(out.strip())
    book = load(tmp_path / "plans.yaml")
    assert "globex" in book.accounts
    assert "2_500/month" in (tmp_path / "plans.yaml").read_text()


def test_three_wrong_answers_end_it(
    tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    code, shown, out = on_a_terminal(tmp_path, environment(), "x", "y", "z")
    assert (code, out) == (2, "")
    assert 'error: --upstream (SIDECAR_UPSTREAM): "z" is not an upstream' in shown
    assert not (tmp_path / "plans.yaml").exists()


class Hello(BaseHTTPRequestHandler):
    """An API that answers with the account that it was given."""

    def do_GET(self) -> None:
        body = str(self.headers["X-Account-Id"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def status_of(address: str, key: str | None) -> tuple[int, bytes]:
    connection = HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/", headers={"X-Api-Key": key} if key else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_the_printed_command_runs_the_sidecar_and_the_key_works(
    sidecar: Any, spawn: Any, valkey_url: str
) -> None:
    api = HTTPServer(("127.0.0.1", 0), Hello)
    Thread(target=api.serve_forever, daemon=True).start()
    try:
        done = sidecar("init", "--upstream", f"http://127.0.0.1:{api.server_port}", "--free", "3")
        (line,) = re.findall(r"^  (sidecar serve .*)$", done.stderr, re.MULTILINE)
        listen, control = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        spawn(*shlex.split(line)[1:], "--redis", valkey_url, "--listen", listen,
              "--control", control)  # fmt: skip
        key = done.stdout.strip()
        assert ask(f"http://{control}/readyz")[0] in (200, 503)
        answers = [status_of(listen, key) for _ in range(4)]
        assert answers[:3] == [(200, b"acme")] * 3
        assert answers[3][0] == 429
        assert b'"plan":"pro"' in answers[3][1].replace(b" ", b"")
        assert status_of(listen, None)[0] == 401
    finally:
        api.shutdown()
        api.server_close()
