"""plugins/litellm in a real LiteLLM proxy. `make litellm` installs it and runs this."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model_api import KEY, Deciding, ModelApi, deciding
from tests.support.servers import free_port
from tests.support.vectors import PLUGINS

LITELLM = os.environ.get("LITELLM", "")
pytestmark = pytest.mark.skipif(not LITELLM, reason="LiteLLM is heavy; make litellm installs it")


@dataclass
class Proxy:
    """A running LiteLLM proxy, its model provider and its sidecar."""

    url: str
    api: ModelApi
    sidecar: Deciding

    def ask(self, text: str = "hi", key: str = KEY, **more: Any) -> httpx.Response:
        body = {"model": "small", "messages": [{"role": "user", "content": text}]} | more
        return httpx.post(
            f"{self.url}/v1/chat/completions", json=body, timeout=60,
            headers={"Authorization": f"Bearer {key}"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def proxy(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("litellm")
    api, port = ModelApi(), free_port()
    text = (PLUGINS / "litellm" / "config.yaml").read_text()
    base = f"      api_base: http://127.0.0.1:{api.port}/v1\n      max_retries: 0\n"
    (directory / "config.yaml").write_text(
        text.replace("litellm_settings:", base + "litellm_settings:")
    )
    paths = f"{PLUGINS / 'litellm'}:{PLUGINS / 'asgi'}"
    environment = os.environ | {
        "PYTHONPATH": paths, "OPENAI_API_KEY": "of-the-provider", "LITELLM_MASTER_KEY": KEY,
        "LITELLM_TELEMETRY": "False",
        "QUOTA_SIDECAR_CRITICAL": "/v1/embeddings", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }  # fmt: skip
    command = [LITELLM, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with deciding(directory, _valkey) as sidecar:
        environment["QUOTA_SIDECAR_DECIDE"] = f"unix:{sidecar.socket}"
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdout=log, stderr=log
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, directory / "log")
            yield Proxy(url, api, sidecar)
        finally:
            process.terminate()
            process.wait(20)
            api.close()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health/liveliness").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_a_request_settles_its_tokens(proxy: Proxy) -> None:
    answer = proxy.ask(max_tokens=100)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert '"monthly-tokens"' in answer.headers["ratelimit"]
    data = proxy.sidecar.next_event()
    assert (data["usage"], data["status"]) == ({"requests": 1, "tokens": 7}, 200)


def test_a_stream_settles_its_tokens_at_its_end(proxy: Proxy) -> None:
    answer = proxy.ask(max_tokens=100, stream=True)
    assert answer.status_code == 200, answer.text
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert proxy.sidecar.next_event()["usage"] == {"requests": 1, "tokens": 7}


def test_a_failure_of_the_model_is_reported(proxy: Proxy) -> None:
    assert proxy.ask("fail").status_code == 500
    data = proxy.sidecar.next_event()
    assert (data["status"], data["reason"]) == (500, "ok")


def test_a_client_that_leaves_a_stream_pays_the_estimate(proxy: Proxy) -> None:
    proxy.api.released.clear()
    body = {
        "model": "small", "messages": [{"role": "user", "content": "hold"}], "stream": True,
        "max_tokens": 60,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream(
        "POST", f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=60
    ) as answer:
        assert "hel" in next(answer.iter_lines())
    data = proxy.sidecar.next_event()
    proxy.api.released.set()
    assert (data["reason"], data["usage"]["tokens"]) == ("client_gone", 60)


def test_a_refused_request_reaches_no_model(proxy: Proxy) -> None:
    asked = proxy.api.asked
    answer = proxy.ask(max_tokens=2000)
    assert answer.status_code == 429, answer.text
    assert "acme" in answer.json()["error"]["message"]
    assert answer.json()["error"]["provider_specific_fields"]["how_to_fix"]
    assert proxy.api.asked == asked


def test_the_example_with_the_openai_sdk(proxy: Proxy) -> None:
    def run(most: int) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"LITELLM": f"{proxy.url}/v1", "API_KEY": KEY}
        environment["MAX_TOKENS"] = str(most)
        return subprocess.run(
            [sys.executable, PLUGINS / "litellm" / "ask.py", "hi"], env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    done = run(100)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert proxy.sidecar.next_event()["usage"]["tokens"] == 7
    refused = run(2000)
    assert refused.returncode == 1
    assert refused.stderr.startswith("429: "), refused.stderr


def test_without_the_sidecar_it_is_closed(proxy: Proxy) -> None:
    """The last test: its sidecar does not come back."""
    proxy.sidecar.stop()
    answer = proxy.ask()
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "1"
