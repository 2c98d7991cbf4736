"""The webhook as a process: TLS, its bounds, a renewed certificate, its end."""

import asyncio
import base64
import io
import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.kubernetes import webhook as module
from sidecar.kubernetes.webhook import MAX_BODY_BYTES, Webhook
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.settings import Address
from tests.support.certificate_authority import Authority
from tests.support.commands import Run, Spawn
from tests.support.manifests import OPTIONS, Object, template

Start = Callable[..., "Running"]


class Running:
    """A webhook in this process, and a client that trusts its certificate."""

    def __init__(self, webhook: Webhook, trust: ssl.SSLContext) -> None:
        self.webhook = webhook
        self.trust = trust

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                f"https://127.0.0.1:{self.webhook.port}{path}",
                data=io.BytesIO(body),
                ssl=self.trust,
            ) as response,
        ):
            return response.status, await response.text()

    async def review(self, what: Object) -> Any:
        status, text = await self.call("POST", "/mutate", review(what))
        assert status == 200
        return json.loads(text)["response"]

    async def counted(self) -> dict[tuple[str, str], float]:
        _, text = await self.call("GET", "/metrics")
        return {
            (sample.labels["kind"], sample.labels["result"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "sidecar_webhook_reviews_total" and sample.value
        }


def review(what: Object) -> bytes:
    request = {"uid": "7", "namespace": "prod", "object": what}
    head = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    return json.dumps({**head, "request": request}).encode()


def pod(**annotations: str) -> Object:
    notes = {f"quota-sidecar.dev/{name}": value for name, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shop", "annotations": notes},
        "spec": template()["spec"],
    }


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.cert)


@pytest.fixture
async def running(authority: Authority, trust: ssl.SSLContext) -> Any:
    pair = authority.issue("webhook")
    webhook = Webhook(Address("127.0.0.1", 0), Certificate(pair.cert, pair.key), OPTIONS)
    await webhook.start()
    yield Running(webhook, trust)
    await webhook.stop()


async def test_reviews_are_answered_and_counted(running: Running) -> None:
    assert "patch" in await running.review(pod(inject="true"))
    assert await running.review(pod()) == {"uid": "7", "allowed": True}
    assert "warnings" in await running.review(pod(inject="maybe"))
    await running.review({"apiVersion": "v1", "kind": "Secret"})
    assert await running.counted() == {
        ("Pod", "patched"): 1,
        ("Pod", "unchanged"): 1,
        ("Pod", "refused"): 1,
        ("other", "unchanged"): 1,
    }


async def test_a_fault_admits_the_pod_with_a_warning(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "answer", fail)
    response = await running.review(pod(inject="true"))
    assert response["allowed"] is True
    assert response["warnings"] == ["quota-sidecar: internal error; see the log of the webhook"]
    assert await running.counted() == {("Pod", "failed"): 1}


async def test_what_is_not_a_review_is_refused(running: Running) -> None:
    assert await running.call("GET", "/healthz") == (200, "ok")
    status, text = await running.call("POST", "/mutate", b"{}")
    assert (status, text) == (
        400,
        "the body is not an AdmissionReview; send one of admission.k8s.io/v1\n",
    )
    assert (await running.call("POST", "/mutate", b" " * (MAX_BODY_BYTES + 1)))[0] == 413
    assert (await running.call("GET", "/mutate"))[0] == 405
    assert (await running.call("GET", "/other"))[0] == 404


async def test_a_body_that_does_not_come_is_given_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BODY_TIMEOUT_S", 0.01)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.webhook.port, ssl=running.trust
    )
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_connections_beyond_the_bound_are_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 1)
    port = running.webhook.port
    _, first = await asyncio.open_connection("127.0.0.1", port, ssl=running.trust)
    reader, second = await asyncio.open_connection("127.0.0.1", port, ssl=running.trust)
    assert await reader.read() == b""
    first.close()
    second.close()


async def test_a_renewed_certificate_is_used_for_new_connections(
    authority: Authority, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    pair = authority.issue("webhook", days=2)
    certificate = Certificate(pair.cert, pair.key)
    webhook = Webhook(Address("127.0.0.1", 0), certificate, OPTIONS)
    await webhook.start()
    try:
        before = certificate.not_after
        renewed = authority.issue("renewed", days=9)
        pair.cert.write_bytes(renewed.cert.read_bytes())
        pair.key.write_bytes(renewed.key.read_bytes())
        assert certificate.reload()
        assert certificate.not_after > before
        _, writer = await asyncio.open_connection("127.0.0.1", webhook.port, ssl=trust)
        shown = writer.get_extra_info("ssl_object").getpeercert()
        assert ssl.cert_time_to_seconds(shown["notAfter"]) == certificate.not_after
        writer.close()
    finally:
        await webhook.stop()


def events(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stderr is not None
    for line in process.stderr:
        yield json.loads(line)


def test_the_command_serves_until_sigterm_and_reloads_on_sighup(
    spawn: Spawn, authority: Authority, trust: ssl.SSLContext
) -> None:
    pair = authority.issue("webhook")
    process = spawn(
        "webhook", "--listen", "127.0.0.1:0", "--tls-cert", pair.cert, "--tls-key", pair.key,
        "--redis-secret", "quota-redis",
    )  # fmt: skip
    log = events(process)
    serving = next(event for event in log if event["event"] == "webhook_serving")
    port = int(serving["listen"].rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        body = review(pod(inject="true", plans="shop-plans"))
        connection.sendall(
            b"POST /mutate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    response = json.loads(answer.partition(b"\r\n\r\n")[2])["response"]
    assert b"quota-redis" in base64.b64decode(response["patch"]), "the option of the command"
    patched = next(event for event in log if event["event"] == "pod_patched")
    assert (patched["namespace"], patched["workload"]) == ("prod", "shop")
    process.send_signal(signal.SIGHUP)
    assert next(log)["event"] == "certificate_replaced"
    process.send_signal(signal.SIGTERM)
    assert [event["event"] for event in log] == ["webhook_stopped"]
    assert process.wait(10) == 0


def test_wrong_usage_is_one_line_and_exit_code_2(sidecar: Run, authority: Authority) -> None:
    pair = authority.issue("webhook")
    tls = ("--tls-cert", pair.cert, "--tls-key", pair.key)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments, message in (
            ((), "--tls-cert and --tls-key: one is missing"),
            ((*tls, "--listen", "8443"), '--listen: "8443" is not an address'),
            ((*tls, "--env", "SIDECAR_WORKERS=x"), "--env: --workers (SIDECAR_WORKERS): "),
            ((*tls, "--port", "x"), '--port: "x" is not a port'),
            (("--tls-cert", pair.key, "--tls-key", pair.key), "--tls-cert (SIDECAR_TLS_CERT): "),
            ((*tls, "--listen", listen), f"--listen: {listen} is in use"),
        ):
            done = sidecar("webhook", *arguments)
            lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
            assert done.returncode == 2, done.stderr
            assert lines[0].startswith(f"error: {message}")
            assert [line[:5] for line in lines[1:]] in ([], ["try: "])
