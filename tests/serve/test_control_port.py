"""The control port over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from sidecar.errors import SettingsError
from sidecar.serve.control_access import ControlAccess
from sidecar.serve.control_port import ControlPort
from sidecar.serve.readiness import Readiness


class State:
    """The sources that the control port reads, and the reloads that it requested."""

    def __init__(self) -> None:
        self.reloads = 0
        self.ready = Readiness([], [])
        self.registry = CollectorRegistry()
        Counter("sidecar_attempts", "Attempts.", registry=self.registry).inc(3)

    def config(self) -> dict[str, Any]:
        return {"version": "sha256:abc", "live_since": "2026-11-23T08:30:00Z"}

    def reload(self) -> None:
        self.reloads += 1


@pytest.fixture
def state() -> State:
    return State()


def a_control_port(
    state: State, port: int = 0, host: str = "127.0.0.1", names: tuple[str, ...] = ()
) -> ControlPort:
    return ControlPort(
        (host, port),
        registry=state.registry,
        ready=lambda: state.ready,
        config_status=state.config,
        reload=state.reload,
        access=ControlAccess(),
        hosts=names,
    )


Ask = Callable[..., Any]


@pytest.fixture
async def ask(state: State) -> AsyncIterator[Ask]:
    server = a_control_port(state)
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

        async def one(
            path: str, method: str = "GET", **headers: str
        ) -> tuple[int, Any, str, dict[str, str]]:
            async with session.request(method, path, headers=headers) as answer:
                return answer.status, answer.headers, await answer.text(), dict(answer.headers)

        yield one
    await server.stop()


async def test_healthz_is_ok(ask: Ask) -> None:
    status, _, text, headers = await ask("/healthz")
    assert (status, text) == (200, "ok")
    assert "Server" not in headers


@pytest.mark.parametrize(
    ("reasons", "degraded", "code"),
    [
        ([], [], 200),
        ([], ["redis: unreachable"], 200),
        (["draining"], [], 503),
        (["draining"], ["redis: unreachable"], 503),
    ],
)
async def test_readyz_is_503_only_with_reasons_not_if_degraded(
    ask: Ask, state: State, reasons: list[str], degraded: list[str], code: int
) -> None:
    state.ready = Readiness(reasons, degraded)
    status, _, text, _ = await ask("/readyz")
    body = {"ready": not reasons, "reasons": reasons, "degraded": degraded}
    assert (status, json.loads(text)) == (code, body)


async def test_metrics_have_the_format_that_the_client_accepts(ask: Ask) -> None:
    status, headers, text, _ = await ask("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert "sidecar_attempts_total 3.0" in text
    _, headers, text, _ = await ask(
        "/metrics", Accept="application/openmetrics-text; version=1.0.0"
    )
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


async def test_config_is_the_live_status(ask: Ask, state: State) -> None:
    status, headers, text, _ = await ask("/config")
    assert (status, json.loads(text)) == (200, state.config())
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/config", "/openapi.json"])
async def test_head_answers_like_get_without_a_body(ask: Ask, path: str) -> None:
    status, headers, text, _ = await ask(path, method="HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 0


async def test_an_unknown_path_is_a_404_problem(ask: Ask) -> None:
    status, headers, text, _ = await ask("/nothing")
    assert status == 404
    assert headers["Content-Type"] == "application/problem+json"
    problem = json.loads(text)
    assert problem["status"] == 404
    assert "/metrics" in problem["detail"]


async def test_another_method_is_a_405_problem_that_names_the_allowed_ones(ask: Ask) -> None:
    status, headers, text, _ = await ask("/healthz", method="POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(text)["detail"] == "Use GET, HEAD."


async def test_a_port_in_use_names_the_flag(state: State) -> None:
    first = a_control_port(state)
    await first.start()
    try:
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{first.port} is in use.*--control"):
            await a_control_port(state, first.port).start()
    finally:
        await first.stop()


async def test_an_address_of_another_host_names_the_flag(state: State) -> None:
    server = a_control_port(state, host="192.0.2.1")
    with pytest.raises(SettingsError, match=r"^--control: 192\.0\.2\.1:0 cannot be used: "):
        await server.start()


async def test_stop_is_idempotent_and_frees_the_port(state: State) -> None:
    first = a_control_port(state)
    await first.start()
    port = first.port
    await first.stop()
    await first.stop()
    second = a_control_port(state, port)
    await second.start()
    assert second.port == port
    await second.stop()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9090", "10.1.2.3:9090", "[::1]", "[fd00::7]:9090", "localhost:9090",
     "LOCALHOST", "localhost.", "metrics.test:9090", "Metrics.Test."],
)  # fmt: skip
async def test_the_control_port_answers_to_addresses_and_its_names(state: State, host: str) -> None:
    assert await _status_for(state, f"Host: {host}\r\n") == 200


async def test_the_control_port_answers_to_http_1_0_without_a_host(state: State) -> None:
    assert await _status_for(state, "", version="1.0") == 200


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:9090", "127.0.0.1.evil.test", "localhost.evil.test", "1.2.3",
     "0x7f000001", "[::1].evil.test", "[evil.test]", "a@127.0.0.1", "xn--localhost-"],
)  # fmt: skip
async def test_security_dns_rebinding_reads_nothing(state: State, host: str) -> None:
    assert await _status_for(state, f"Host: {host}\r\n") == 400


async def test_any_host_may_be_configured(state: State) -> None:
    assert await _status_for(state, "Host: evil.test\r\n", names=("*",)) == 200


async def _status_for(
    state: State, field: str, version: str = "1.1", names: tuple[str, ...] = ("metrics.test",)
) -> int:
    server = a_control_port(state, names=names)
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /config HTTP/{version}\r\n{field}Connection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = await reader.read()
        writer.close()
    finally:
        await server.stop()
    assert b"X-Content-Type-Options: nosniff\r\n" in head
    return int(head.split(b" ", 2)[1])
