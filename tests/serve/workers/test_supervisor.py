"""Several processes on one address serve, count, restart and drain as one."""

import json
import os
import signal
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sidecar.metering.verify import verify
from tests.support.several_workers import Api, alive, until

REQUESTS = 40


def test_all_workers_serve_and_their_metrics_are_merged(serve: Any) -> None:
    here = serve(workers=2).ready()
    assert [here.call() for _ in range(REQUESTS)] == [200] * REQUESTS
    assert here.metric("sidecar_requests_total", outcome="ok") == REQUESTS
    assert here.metric("sidecar_overhead_seconds_count") == REQUESTS
    assert here.metric("sidecar_overhead_seconds_bucket", le="+Inf") == REQUESTS
    assert here.metric("sidecar_spool_events_total") == REQUESTS
    assert here.metric("sidecar_workers_serving") == here.metric("sidecar_workers") == 2
    assert here.metric("sidecar_store_up") == 1
    for worker in ("0", "1", "supervisor"):
        assert here.metric("process_resident_memory_bytes", worker=worker) > 0
    assert here.ask("/healthz") == (200, "ok")
    config = json.loads(here.ask("/config")[1])
    assert config["agree"] is True
    assert config["version"] == config["workers"]["1"]["version"]
    code, errors, _ = here.stop()
    assert code == 0, errors
    spools = Counter(event["spool"] for event in here.events())
    assert len(spools) == 2
    assert sum(spools.values()) == len({event["id"] for event in here.events()}) == REQUESTS
    assert {event["source"] for event in here.events()} == {"/sidecar/default"}


def test_I4_a_killed_worker_restarts_with_its_spool_and_no_count_falls(serve: Any) -> None:
    here = serve(workers=2, commit_window_ms=1).ready()
    assert [here.call() for _ in range(REQUESTS)] == [200] * REQUESTS
    until(lambda: len(here.events()) == REQUESTS, "all events are on disk")
    assert here.metric("sidecar_requests_total") == REQUESTS
    pids = here.pids()
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: here.pids() != pids and len(here.pids()) == 2, "another process")
    assert here.metric("sidecar_requests_total") == REQUESTS
    assert here.ready().pids()[0] == pids[1]
    assert here.metric("sidecar_worker_restarts_total") == 1
    assert [here.call() for _ in range(REQUESTS)] == [200] * REQUESTS
    assert here.metric("sidecar_requests_total") == 2 * REQUESTS
    code, errors, _ = here.stop()
    assert code == 0, errors
    assert not any(alive(pid) for pid in pids)
    kinds = Counter(event["type"] for event in here.events())
    assert kinds == {"api.request.v1": 2 * REQUESTS, "sidecar.spool.unclean_stop.v1": 1}
    assert len({event["id"] for event in here.events()}) == kinds.total()
    reports = [verify(here.spool / f"worker-{number}") for number in (0, 1)]
    assert [report.ok for report in reports] == [True, True]
    assert sum(report.events for report in reports) == kinds.total()


def test_readiness_names_the_worker_that_does_not_answer(serve: Any) -> None:
    here = serve(workers=2).ready()
    stopped = here.pids()[1]
    os.kill(stopped, signal.SIGSTOP)  # it lives, but does not answer
    try:
        status, text = here.ask("/readyz")
        assert (status, json.loads(text)["ready"]) == (503, False)
        [reason] = json.loads(text)["reasons"]
        assert reason.endswith("does not answer")
        assert here.ask("/healthz") == (503, reason)
        assert json.loads(here.ask("/config")[1])["agree"] is False
    finally:
        os.kill(stopped, signal.SIGCONT)
    here.ready()


def test_SIGTERM_drains_all_workers(serve: Any, api: Api) -> None:
    here = serve(workers=3).ready()
    pids = here.pids()
    answers: list[int] = []
    calls = [threading.Thread(target=lambda: answers.append(here.call("/slow"))) for _ in range(6)]
    for call in calls:
        call.start()
    until(lambda: here.metric("sidecar_upstream_connections") == 6, "all are in flight")
    here.send(signal.SIGTERM)
    until(lambda: "draining" in here.ask("/readyz")[1], "it drains")
    api.released.set()
    for call in calls:
        call.join()
    code, errors, _ = here.end()
    assert (code, answers) == (0, [200] * 6), errors
    assert len(here.events()) == 6
    assert not any(alive(pid) for pid in pids)


def test_no_worker_outlives_its_supervisor(serve: Any) -> None:
    here = serve(workers=3).ready()
    assert [here.call() for _ in range(REQUESTS)] == [200] * REQUESTS
    pids = here.pids()
    assert len(pids) == 3
    here.process.kill()
    for pid in pids:
        until(lambda pid=pid: not alive(pid), f"worker {pid} has ended")
    assert len(here.events()) == REQUESTS  # they drained
    for number in range(3):
        assert not verify(here.spool / f"worker-{number}").torn_bytes


def test_a_worker_that_gets_SIGTERM_drains_and_is_replaced(serve: Any) -> None:
    here = serve(workers=2).ready()
    pids = here.pids()
    os.kill(pids[0], signal.SIGTERM)
    until(lambda: pids[0] not in here.pids() and len(here.pids()) == 2, "another process")
    here.ready()
    assert here.stop()[0] == 0


def test_workers_share_a_unix_socket(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "x.sock"
    here = serve(workers=2, listen=f"unix:{path}").ready()
    for _ in range(REQUESTS):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /items HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
    # The last client may close before its whole answer is sent: its request ends a little later.
    until(lambda: here.metric("sidecar_requests_total") == REQUESTS, "all are counted")
    code, errors, _ = here.stop()
    assert code == 0, errors
    assert not path.exists()
    assert len(here.events()) == REQUESTS


def test_sinks_on_one_output_do_not_mix_lines(serve: Any, tmp_path: Path) -> None:
    shared = tmp_path / "events.jsonl"
    here = serve(workers=3, sinks=f"stdout,file:{shared},redis").ready()
    assert [here.call() for _ in range(REQUESTS)] == [200] * REQUESTS
    code, errors, out = here.stop()
    assert code == 0, errors
    expected = {event["id"] for event in here.events()}
    assert len(expected) == REQUESTS
    for text in (out, shared.read_text()):
        assert {json.loads(line)["id"] for line in text.splitlines()} == expected
        assert len(text.splitlines()) == REQUESTS


def test_a_changed_number_of_workers_loses_no_event(serve: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shipped.jsonl"

    def shipped() -> list[str]:
        lines = shared.read_text().splitlines() if shared.exists() else []
        return [json.loads(line)["id"] for line in lines]

    expected = 0
    for workers, sinks in ((3, ""), (1, ""), (2, f"file:{shared}"), (1, f"file:{shared}")):
        here = serve(workers=workers, sinks=sinks).ready()
        assert [here.call() for _ in range(10)] == [200] * 10
        expected += 10
        if sinks:
            until(lambda: len(shipped()) == expected, "all events are shipped")  # noqa: B023
        code, errors, _ = here.stop()
        assert code == 0, errors
    assert len(set(shipped())) == len(shipped()) == 40


def test_SIGHUP_reaches_every_worker(serve: Any, tmp_path: Path) -> None:
    from tests.support.certificate_authority import Authority

    pair = Authority(tmp_path / "authority").issue("leaf")
    here = serve(workers=2, tls_cert=pair.cert, tls_key=pair.key).ready()
    here.send(signal.SIGHUP)
    until(lambda: here.metric("sidecar_tls_reloads_total") == 2, "both have reloaded it")
    assert here.metric("sidecar_tls_certificate_ok") == 1
    assert here.stop()[0] == 0
