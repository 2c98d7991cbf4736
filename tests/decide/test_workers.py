"""Several workers share the decide port: a settlement reaches the worker that decided."""

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.several_workers import Api, Several, until

COUNT = 20


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


@pytest.fixture
def several(tmp_path: Path, valkey_url: str) -> Iterator[Several]:
    api = Api()
    path = tmp_path / "decide.sock"
    one = Several(tmp_path, valkey_url, api, flags={"decide": f"unix:{path}"})
    try:
        yield one.ready()
    finally:
        one.send(signal.SIGINT)
        one.process.communicate(timeout=30)
        api.close()


def ask(several: Several, path: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Ask on a connection of its own, which any worker may accept."""
    connection = UnixConnection(str(several.directory / "decide.sock"))
    try:
        connection.request("POST", path, json.dumps(document))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


QUESTION = {"method": "GET", "path": "/items", "headers": {"X-Api-Key": "acme"}}


def of_both_workers(several: Several) -> list[dict[str, Any]]:
    """Open decisions of both workers: the kernel chooses which of them accepts a connection."""
    decisions: list[dict[str, Any]] = []

    def both() -> bool:
        decisions.append(ask(several, "/v1/decide", QUESTION)[1])
        return len({one["id"].rpartition(".")[2] for one in decisions}) == 2

    until(both, "decisions of both workers")
    return decisions + [ask(several, "/v1/decide", QUESTION)[1] for _ in range(COUNT)]


def test_any_worker_takes_the_settlement_of_any_decision(several: Several) -> None:
    decisions = of_both_workers(several)
    first = [ask(several, "/v1/settle", {"id": d["id"], "status": 200}) for d in decisions]
    again = [ask(several, "/v1/settle", {"id": d["id"], "status": 500}) for d in decisions]
    assert {status for status, _ in first} == {200}
    assert again == first
    until(lambda: len(several.events()) == len(decisions), "all events")
    assert sorted(event["id"] for event in several.events()) == sorted(
        one["request_id"] for one in decisions
    )
    assert several.metric("sidecar_decide_open") == 0


def test_a_report_to_a_worker_that_does_not_answer_is_sent_again(several: Several) -> None:
    decisions = {one["id"][-1]: one["id"] for one in of_both_workers(several)}
    reports = [{"id": decisions[worker], "status": 200} for worker in "01"]
    stopped = several.pids()[0]
    os.kill(stopped, signal.SIGSTOP)  # so the other worker accepts all connections
    try:
        found = [ask(several, "/v1/settle", report)[0] for report in reports]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert sorted(found) == [200, 503]
    assert [ask(several, "/v1/settle", report)[0] for report in reports] == [200, 200]


def test_the_decisions_of_a_killed_worker_are_unknown_and_the_others_settle(
    several: Several,
) -> None:
    decisions = of_both_workers(several)
    killed = several.pids()[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in several.pids() and len(several.pids()) == 2, "a new worker")
    until(lambda: several.metric("sidecar_workers_serving") == 2, "both workers serve")
    found = [ask(several, "/v1/settle", {"id": d["id"], "status": 200})[0] for d in decisions]
    by_worker: dict[str, set[int]] = {}
    for decision, status in zip(decisions, found, strict=True):
        by_worker.setdefault(decision["id"].rpartition(".")[2], set()).add(status)
    assert sorted(map(sorted, by_worker.values())) == [[200], [404]]
