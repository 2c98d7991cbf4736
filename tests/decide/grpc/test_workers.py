"""Several workers share the gRPC address: a report reaches the worker that decided."""

import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sidecar.decide.grpc.messages import CheckResponse, LogsMessage
from tests.support.grpc_gateway import CHECK, LOGS, entry, metadata_of, question
from tests.support.servers import free_port
from tests.support.several_workers import Api, Several, until

TOKEN = "0123456789abcdef0123456789abcdef"
METADATA = (("x-decide-token", TOKEN),)


@pytest.fixture
def several(tmp_path: Path, valkey_url: str) -> Iterator[tuple[Several, str]]:
    api = Api()
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "tokens").write_text(TOKEN)
    flags: dict[str, object] = {"decide-grpc": address, "decide-token-file": tmp_path / "tokens"}
    one = Several(tmp_path, valkey_url, api, flags=flags)
    try:
        yield one.ready(), address
    finally:
        one.send(signal.SIGINT)
        one.process.communicate(timeout=30)
        api.close()


def channel(address: str) -> grpc.Channel:
    """A channel with a connection of its own, which any worker may accept."""
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def decide(address: str) -> str:
    with channel(address) as one:
        data = question().SerializeToString()
        answer = one.unary_unary(CHECK)(data, metadata=METADATA, timeout=20)
    return metadata_of(CheckResponse.FromString(answer))["decision"]


def test_any_worker_takes_the_report_of_any_decision(several: tuple[Several, str]) -> None:
    here, address = several
    decisions: list[str] = []

    def of_both() -> bool:
        decisions.append(decide(address))
        return len({one.rpartition(".")[2] for one in decisions}) == 2

    until(of_both, "decisions of both workers")
    message = LogsMessage()
    for one in decisions:
        entry(message, one)
    with channel(address) as logs:
        send = logs.stream_unary(LOGS)
        send(iter([message.SerializeToString()]), metadata=METADATA, timeout=20)
    until(lambda: len(here.events()) == len(decisions), "all events")
    assert sorted(event["id"] for event in here.events()) == sorted(
        one.rpartition(".")[0] for one in decisions
    )
    settled = here.metric("sidecar_decide_log_entries_total", result="settled")
    assert settled == len(decisions)
    assert here.metric("sidecar_decide_open") == 0
