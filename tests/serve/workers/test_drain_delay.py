"""The delay after a signal in which requests are accepted, and how to skip it."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.several_workers import alive, until

LONG = 3_600  # seconds: longer than any test, so the delay itself never ends


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_are_accepted_during_the_delay_until_a_second_signal(
    serve: Any, workers: int
) -> None:
    here = serve(workers=workers, drain_delay_s=LONG).ready()
    here.send(signal.SIGTERM)
    until(lambda: "draining" in here.ask("/readyz")[1], "it drains")
    assert [here.call() for _ in range(10)] == [200] * 10
    here.send(signal.SIGTERM)
    code, errors, _ = here.end()
    assert code == 0, errors
    assert "drain_cut_short" in errors
    assert len(here.events()) == 10


@pytest.mark.parametrize("workers", [1, 2])
def test_SIGINT_skips_the_delay(serve: Any, workers: int) -> None:
    here = serve(workers=workers, drain_delay_s=LONG).ready()
    assert here.call() == 200
    here.send(signal.SIGINT)
    code, errors, _ = here.end()
    assert code == 0, errors
    assert "drain_cut_short" not in errors


def test_a_unix_socket_exists_during_the_delay(
    serve: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "x.sock"
    here = serve(workers=2, listen=f"unix:{path}", drain_delay_s=LONG).ready()
    here.send(signal.SIGTERM)
    until(lambda: "draining" in here.ask("/readyz")[1], "it drains")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /items HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    here.send(signal.SIGTERM)
    assert here.end()[0] == 0
    assert not Path(path).exists()


def test_workers_keep_the_delay_when_the_supervisor_dies(serve: Any) -> None:
    here = serve(workers=2, drain_delay_s=LONG).ready()
    pids = here.pids()
    here.send(signal.SIGTERM)
    until(lambda: "draining" in here.ask("/readyz")[1], "it drains")
    here.process.kill()
    here.process.wait()
    assert here.call() == 200
    for pid in pids:
        os.kill(pid, signal.SIGINT)  # the second request to stop
    for pid in pids:
        until(lambda pid=pid: not alive(pid), f"worker {pid} has ended")


@pytest.mark.parametrize("workers", [1, 2])
def test_SIGUSR1_announces_the_end_and_the_sidecar_serves_until_SIGTERM(
    serve: Any, workers: int
) -> None:
    here = serve(workers=workers, drain_delay_s=LONG).ready()
    here.send(signal.SIGUSR1)
    until(lambda: "draining" in here.ask("/readyz")[1], "it drains")
    assert [here.call() for _ in range(10)] == [200] * 10
    here.send(signal.SIGUSR1)  # a hook may run twice
    assert here.call() == 200
    here.send(signal.SIGINT)
    code, errors, _ = here.end()
    assert code == 0, errors
    assert "drain_announced" in errors
    assert "drain_cut_short" not in errors
    assert len(here.events()) == 11
