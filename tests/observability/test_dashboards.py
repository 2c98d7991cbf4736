"""A real Prometheus scrapes a sidecar under load: every panel of the dashboards has data."""

import asyncio
import json
import math
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtests.dashboards import prometheus
from loadtests.dashboards.panels import queries, with_variables
from loadtests.dashboards.traffic import Traffic
from tests.docs.test_metrics import documented
from tests.observability.test_alerts import promtool
from tests.observability.tools import DASHBOARDS, PROMETHEUS, ROOT, RULES, needs_prometheus
from tests.support.certificate_authority import Authority
from tests.support.processes import PATIENCE_S, Serving, StartServing
from tests.support.servers import free_port

PLANS = ROOT / "loadtests" / "dashboards" / "plans.yaml"
NAMES = [path.stem for path in DASHBOARDS]
SERIES = re.compile(r"_(?:bucket|count|sum)$")


@asynccontextmanager
async def process(*command: str, log: Path) -> AsyncIterator[None]:
    """A process that ends with the block."""
    with log.open("wb") as output:
        one = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, cwd=ROOT)
    try:
        yield
    finally:
        if one.returncode is None:
            one.kill()
        await one.wait()


async def serve(serving: StartServing, tmp_path: Path, api: int, **flags: object) -> Serving:
    """A sidecar with the plans of the traffic, and with sinks and TLS."""
    pair = Authority(tmp_path / "ca").issue("localhost")
    plans = tmp_path / "plans.yaml"
    shutil.copy(PLANS, plans)
    return await serving(
        upstream=f"http://127.0.0.1:{api}", plans=plans,
        sinks=f"file:{tmp_path / 'events'},redis", tls_cert=pair.cert, tls_key=pair.key, **flags,
    )  # fmt: skip


def with_data(port: int, texts: set[str]) -> set[str]:
    """Those of the queries that return a number now."""
    return {
        text
        for text in texts
        if any(not math.isnan(value) for _, value in prometheus.query(port, text))
    }


async def until_all_have_data(port: int, texts: set[str]) -> None:
    """Wait until every query has returned a number once. Fails with those that have not."""
    missing = set(texts)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while missing:
                try:
                    missing -= await asyncio.to_thread(with_data, port, missing)
                except OSError:
                    await asyncio.sleep(0.05)  # it has not started yet
    except TimeoutError:
        pytest.fail("no data: " + "\n".join(sorted(missing)))


@needs_prometheus
async def test_each_panel_has_data_while_a_sidecar_is_under_load(
    serving: StartServing, tmp_path: Path
) -> None:
    api, port = free_port(), free_port()
    receiver = f"http://127.0.0.1:{free_port()}"  # is unavailable, which must not matter
    sidecar = await serve(serving, tmp_path, api, trace_endpoint=receiver, trace_ratio=1)
    traffic = Traffic(f"https://127.0.0.1:{sidecar.port}", lambda: 150.0)
    settings = prometheus.config(f"127.0.0.1:{sidecar.control}", RULES, every="250ms")
    server = prometheus.command(PROMETHEUS, tmp_path, port, settings)
    program = (sys.executable, "-m", "loadtests.dashboards.api", str(api))
    texts = {
        with_variables(target.query, window="3s", span="1m")
        for name in NAMES
        for _, target in queries(name)
    }
    async with (
        process(*program, log=tmp_path / "api.log"),
        process(*server, log=tmp_path / "prometheus.log"),
    ):
        sending = asyncio.create_task(traffic.run())
        try:
            await until_all_have_data(port, texts)
            now = time.time()
            traces = await asyncio.to_thread(
                prometheus.exemplar_traces, port, "sidecar_overhead_seconds_bucket", now - 60, now
            )
            assert traces
        finally:
            traffic.stop()
            await sending
        groups = (await asyncio.to_thread(prometheus.ask, port, "rules"))["groups"]
        checked = [rule for group in groups for rule in group["rules"] if rule["health"] == "ok"]
        assert len(checked) == len([rule for group in groups for rule in group["rules"]])
    _, text = await sidecar.ask("/metrics")
    promtool("check", "metrics", text=text)


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_queries_only_documented_metrics_and_labels(name: str) -> None:
    known = documented()
    named = 0
    for title, target in queries(name):
        for metric in re.findall(r"\bsidecar_\w+", target.query):
            assert SERIES.sub("", metric) in known, f"{title}: {metric}"
            named += 1
        metrics = {SERIES.sub("", one) for one in re.findall(r"\bsidecar_\w+", target.query)}
        of_sidecar = {label for metric in metrics for label in known[metric][1]}
        labels = set(re.findall(r"\w+", ",".join(re.findall(r"by \(([\w, ]+)\)", target.query))))
        assert labels <= of_sidecar | {"instance", "le"}, title
        assert set(re.findall(r"{{(\w+)}}", target.legend)) <= labels, title
    assert named > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_complete_and_its_panels_do_not_overlap(name: str) -> None:
    board: dict[str, Any] = json.loads((DASHBOARDS[NAMES.index(name)]).read_text())
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${source}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert {"source", "job"} <= {variable["name"] for variable in board["templating"]["list"]}
