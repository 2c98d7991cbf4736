"""The calls of `helm test`, against a real sidecar in front of a real API."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import helm_python
import pytest

from tests.support.charts import CHART, objects, only, rendered, values_of
from tests.support.processes import SlowApi, StartServing
from tests.support.servers import free_port

Calls = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def calls(chart: helm_python.Chart, tmp_path: Path) -> Calls:
    """Run the container's command with its environment; only the gateway's address is another."""
    values = values_of(CHART / "ci" / "production.yaml")
    [container] = only(objects(rendered(chart, values)), "Pod")["spec"]["containers"]
    python, *rest = container["command"]
    assert python == "python"
    given = {one["name"]: one.get("value", "") for one in container["env"]}

    def run(gateway: str, **more: str) -> "subprocess.CompletedProcess[str]":
        assert given.keys() == {"GATEWAY", "TEST_PATH", "TEST_KEY"}
        environment = given | {"GATEWAY": gateway} | more
        return subprocess.run(
            [sys.executable, *rest], env=environment, cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=100,
        )  # fmt: skip

    return run


async def test_the_calls_pass_with_a_key_and_without(
    serving: StartServing, slow_api: SlowApi, calls: Calls
) -> None:
    slow_api.release.set()
    gateway = await serving(upstream=f"http://127.0.0.1:{slow_api.port}")
    here = f"http://127.0.0.1:{gateway.port}"
    done = await asyncio.to_thread(calls, here, TEST_KEY="acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the API answered 200" in done.stdout
    done = await asyncio.to_thread(calls, here, TEST_KEY="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "tests.keySecret.name is empty" in done.stdout
    [event] = gateway.events()
    assert event["subject"] == "acme"


async def test_the_calls_fail_for_a_wrong_key_and_for_an_api_that_is_down(
    serving: StartServing, calls: Calls
) -> None:
    gateway = await serving(upstream=f"http://127.0.0.1:{free_port()}")
    here = f"http://127.0.0.1:{gateway.port}"
    done = await asyncio.to_thread(calls, here, TEST_KEY="other")
    assert done.returncode == 1
    assert "got 401" in done.stderr
    done = await asyncio.to_thread(calls, here, TEST_KEY="acme")
    assert done.returncode == 1
    assert "got 502" in done.stderr


async def test_the_calls_fail_if_no_sidecar_is_in_front_of_the_api(
    slow_api: SlowApi, calls: Calls
) -> None:
    slow_api.release.set()
    done = await asyncio.to_thread(calls, f"http://127.0.0.1:{slow_api.port}", TEST_KEY="acme")
    assert done.returncode == 1
    assert "got 200, X-Request-Id None; expected 401" in done.stderr
