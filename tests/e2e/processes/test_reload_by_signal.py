"""SIGHUP: a valid plan file goes live, an invalid one is rejected, and both are reported."""

import asyncio
import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import Serving, StartServing, until
from tests.support.stage import plans_text


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """The target of the link plans.yaml, in another directory."""
    real = tmp_path / "elsewhere" / "plans.yaml"
    real.parent.mkdir()
    real.write_text(plans_text(quota=2))
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "plans.yaml").symlink_to(real)
    return real


async def config(here: Serving) -> dict[str, Any]:
    code, body = await here.ask("/config")
    assert code == 200
    answer: dict[str, Any] = json.loads(body)
    return answer


async def after_hangup(here: Serving, file: Path, text: str, **expected: int) -> dict[str, Any]:
    """Reload with this text. Returns /config once it has the expected numbers."""
    await asyncio.to_thread(file.write_text, text)
    here.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while True:
            state = await config(here)
            if all(state[name] == number for name, number in expected.items()):
                return state
            await asyncio.sleep(0.02)


async def samples(here: Serving) -> dict[str, float]:
    """The metrics of the plan file, with its version as the name of the info metric.

    Of a timestamp, only its presence counts; `/config` has the same timestamps.
    """
    state = await config(here)
    text = (await here.ask("/metrics"))[1]
    found = {
        sample.labels.get("version", sample.name): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("sidecar_config_")
    }
    for since in ("live_since", "failed_since"):
        seconds = found.pop(f"sidecar_config_{since}_timestamp_seconds")
        expected = datetime.fromisoformat(state[since]).timestamp() if state[since] else 0.0
        assert seconds == pytest.approx(expected, abs=1e-3)
    return found


async def test_I7_a_signal_reloads_a_valid_file_and_rejects_an_invalid_one(
    serving: StartServing, plan_file: Path, tmp_path: Path
) -> None:
    here = await serving(plans=tmp_path / "mount" / "plans.yaml", upstream="http://127.0.0.1:1")
    first = await config(here)
    assert (first["reloads"], first["failures"], first["failed_since"]) == (0, 0, None)
    # 502: admitted, but the API is unreachable.
    assert [(await here.call("/a"))[0] for _ in range(3)] == [502, 502, 429]

    second = await after_hangup(here, plan_file, plans_text(quota=4), reloads=1)
    assert second["version"] != first["version"]
    assert [(await here.call("/a"))[0] for _ in range(3)] == [502, 502, 429]

    bad = plans_text(quota=9).replace("quota: 9/month", "quota: nine/month")
    state = await after_hangup(here, plan_file, bad, failures=1)
    assert (state["version"], state["live_since"]) == (second["version"], second["live_since"])
    assert state["failed_since"] is not None
    line = bad[: bad.index("nine/month")].count("\n") + 1
    assert state["problems"][0].startswith(f"{tmp_path}/mount/plans.yaml:{line}:40: ")
    assert "nine/month" in state["problems"][0]
    here.process.send_signal(signal.SIGHUP)  # the same file: only the signal starts a reload
    await until(lambda: len(here.said("plan_file_rejected")) == 2)
    refused, _ = here.said("plan_file_rejected")
    assert (refused["level"], refused["live_version"]) == ("error", second["version"])
    assert (await here.call("/a"))[0] == 429
    assert (await here.ask("/readyz"))[0] == 200
    assert await samples(here) == {
        "sidecar_config_reloads_total": 1,
        "sidecar_config_failures_total": 2,
        second["version"]: 1,
    }

    state = await after_hangup(here, plan_file, plans_text(quota=5), reloads=2)
    assert (state["failures"], state["failed_since"], state["problems"]) == (2, None, [])
    assert [(await here.call("/a"))[0] for _ in range(2)] == [502, 429]
