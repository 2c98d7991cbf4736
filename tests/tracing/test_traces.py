"""Traces of real requests, as a receiver decodes them by the published protos of OTLP."""

import os
import re
import subprocess
from pathlib import Path

import aiohttp
import pytest

from sidecar.tracing import otlp
from tests.support.commands import Run, clean_environment
from tests.support.processes import PATIENCE_S, SIDECAR, StartServing, until
from tests.support.servers import free_port
from tests.support.stage import Stage, StartStage, plans_text, status
from tests.tracing.conftest import ATTRIBUTES, Receiver

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
OTHER = f"00-{'1' * 32}-{PARENT}-01"
ALWAYS = {"trace_ratio": "1"}
SERVER, CLIENT, CONSUMER = 2, 3, 5


def traceparent_at_the_api(stage: Stage) -> tuple[str, str, str]:
    """Trace, parent and flags in the last request that the API got."""
    *_, found = re.finditer(
        rb"\r\ntraceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r\n",
        stage.upstream.received,
    )
    return found[1].decode(), found[2].decode(), found[3].decode()


def request_id_of(answer: bytes) -> str:
    found = re.search(rb"\r\nX-Request-Id: (\S+)\r\n", answer)
    assert found is not None
    return found[1].decode()


async def stop(stage: Stage) -> None:
    """Send the last spans: stopping a sidecar does."""
    await stage.app.stop()


async def test_a_request_is_one_trace_from_the_client_to_the_api(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(trace_endpoint=receiver.url)
    answer = await here.call("GET", "/items?token=secret", traceparent=SAMPLED)
    await stop(here)
    [root] = receiver.named("GET rest")
    [identify], [reserve], [forward], [settle] = map(
        receiver.named, ("identify", "reserve", "forward", "settle")
    )
    assert len(receiver.spans) == 5
    assert {span["trace_id"] for span in receiver.spans} == {TRACE}
    assert root["parent"] == PARENT
    assert {span["parent"] for span in (identify, reserve, forward, settle)} == {root["span_id"]}
    assert traceparent_at_the_api(here) == (TRACE, forward["span_id"], "01")
    assert (root["kind"], forward["kind"]) == (SERVER, CLIENT)
    assert root[ATTRIBUTES] == {
        "http.request.method": "GET",
        "url.path": "/items",
        "http.response.status_code": "200",
        "sidecar.request_id": request_id_of(answer),
        "sidecar.outcome": "ok",
        "sidecar.account": "acme",
        "sidecar.plan": "free",
        "sidecar.route": "rest",
    }
    assert forward[ATTRIBUTES] == {"sidecar.outcome": "ok", "http.response.status_code": "200"}
    assert reserve[ATTRIBUTES] == {"sidecar.outcome": "ok"}
    order = [identify, reserve, forward, settle]
    assert order == sorted(order, key=lambda span: int(span["started"]))
    for span in order:
        assert root["started"] <= span["started"] <= span["ended"] <= root["ended"]
    assert "secret" not in str(receiver.spans)
    assert receiver.resources[0]["service.name"] == "quota-sidecar"
    assert receiver.resources[0]["sidecar.source"] == here.app.settings.source


async def test_a_request_without_a_trace_begins_one_with_its_own_id(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(trace_endpoint=receiver.url, **ALWAYS)
    digits = request_id_of(await here.call("GET", "/items")).replace("-", "")
    await stop(here)
    [root], [forward] = receiver.named("GET rest"), receiver.named("forward")
    assert root["trace_id"] == digits
    assert root["parent"] == ""
    assert traceparent_at_the_api(here) == (digits, forward["span_id"], "01")


@pytest.mark.parametrize(
    ("ratio", "traceparent", "flags"),
    [("0", None, "00"), ("1", NOT_SAMPLED, "00"), ("0", SAMPLED, "01"), ("1", None, "01")],
)
async def test_the_ratio_decides_new_traces_and_the_parent_all_others(
    stage: StartStage, receiver: Receiver, ratio: str, traceparent: str | None, flags: str
) -> None:
    here = await stage(trace_endpoint=receiver.url, trace_ratio=ratio)
    fields = {} if traceparent is None else {"traceparent": traceparent}
    await here.call("GET", "/items", **fields)
    await stop(here)
    assert traceparent_at_the_api(here)[2] == flags  # the API samples the same traces
    assert bool(receiver.spans) is (flags == "01")


async def test_a_refused_request_is_traced_up_to_its_refusal(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(trace_endpoint=receiver.url, quota=1, trace_ratio="0")
    await here.call("GET", "/items")
    over = await here.call("GET", "/items", traceparent=SAMPLED)
    unknown = await here.call("GET", "/items", key="unknown", traceparent=OTHER)
    await stop(here)
    assert (status(over), status(unknown)) == (429, 401)
    outcomes = {
        span["trace_id"]: span[ATTRIBUTES]["sidecar.outcome"]
        for span in receiver.spans
        if span["kind"] == SERVER
    }
    assert outcomes == {
        TRACE: "quota",
        OTHER[3:35]: "unknown-key",
    }
    assert [span["name"] for span in receiver.spans if span["kind"] != SERVER] == [
        "identify", "reserve", "identify",
    ]  # fmt: skip
    assert here.upstream.received.count(b"traceparent") == 1


async def test_a_failing_api_makes_the_span_of_the_request_to_it_fail(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(
        trace_endpoint=receiver.url, upstream=f"http://127.0.0.1:{free_port()}", **ALWAYS
    )
    assert status(await here.call("GET", "/items")) == 502
    await stop(here)
    [forward], [root] = receiver.named("forward"), receiver.named("GET rest")
    assert forward["failed"]
    assert root["failed"]
    assert forward[ATTRIBUTES]["error.type"] == "upstream_refused"


async def test_a_wait_and_a_late_settlement_are_spans(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(trace_endpoint=receiver.url, **ALWAYS)
    rate = "{id: brief, meter: requests, rate: 20/s, burst: 1, max_wait: 2s}"
    slots = "{id: slots, concurrency: 5}"  # the reservation stays open until Redis settles it
    text = here.plans.read_text().replace(
        "limits:\n", f"limits:\n      - {rate}\n      - {slots}\n"
    )
    here.plans.write_text(text)
    assert await here.app.keeper.reload()
    for _ in range(2):
        assert status(await here.call("GET", "/items")) == 200
    await receiver.until(lambda: len(receiver.named("settle")) == 2)
    await stop(here)
    [wait] = receiver.named("wait")
    assert wait[ATTRIBUTES] == {"sidecar.outcome": "served"}
    roots = {span["trace_id"]: span["span_id"] for span in receiver.named("GET rest")}
    assert {span["trace_id"]: span["parent"] for span in receiver.named("settle")} == roots


async def test_a_deferred_job_is_a_trace_that_belongs_to_its_request(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(trace_endpoint=receiver.url, job_lease_s="5")
    bulk = '{id: later, match: "POST /later", class: deferrable}'
    rate = "{id: brief, meter: requests, rate: 20/s, burst: 1}"
    text = here.plans.read_text().replace("routes:\n", f"routes:\n  - {bulk}\n")
    here.plans.write_text(text.replace("limits:\n", f"limits:\n      - {rate}\n"))
    assert await here.app.keeper.reload()
    await here.call("GET", "/items")
    answer = await here.call("POST", "/later", traceparent=SAMPLED, Prefer="respond-async")
    assert status(answer) == 202
    await receiver.until(lambda: receiver.named("job later"))
    await stop(here)
    [job] = receiver.named("job later")
    assert (job["kind"], job["trace_id"], job["parent"]) == (CONSUMER, TRACE, PARENT)
    assert job[ATTRIBUTES]["sidecar.job"]
    [forward] = receiver.named("forward")
    assert forward["parent"] == job["span_id"]
    assert traceparent_at_the_api(here)[:2] == (TRACE, forward["span_id"])


async def test_a_flood_of_sampled_requests_is_traced_up_to_the_bound(
    stage: StartStage, receiver: Receiver
) -> None:
    here = await stage(trace_endpoint=receiver.url, trace_max_per_second="1")
    for _ in range(20):
        assert status(await here.call("GET", "/items", traceparent=SAMPLED)) == 200
    assert here.app.tracer is not None
    traces = here.app.tracer.traces
    assert traces["sampled"] + traces["limited"] == 20
    assert traces["limited"] > 0
    await stop(here)
    assert len(receiver.named("GET rest")) == traces["sampled"]


async def test_without_a_receiver_requests_are_answered_and_spans_are_bounded(
    stage: StartStage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "MAX_QUEUE", 12)  # two requests
    here = await stage(trace_endpoint=f"http://127.0.0.1:{free_port()}", **ALWAYS)
    for _ in range(5):
        assert status(await here.call("GET", "/items")) == 200
    tracer = here.app.tracer
    assert tracer is not None
    assert tracer.spans["dropped"] >= 5 * 3
    await stop(here)
    assert tracer.spans["exported"] == 0
    assert sum(tracer.spans.values()) <= 5 * 5


async def test_the_log_says_when_the_receiver_refuses_and_takes_spans_again(
    serving: StartServing, receiver: Receiver
) -> None:
    receiver.status = 400
    one = await serving(trace_endpoint=receiver.url, trace_ratio=1, access_log=True)
    await one.call("/items")
    await until(lambda: one.said("trace_receiver_down"))
    receiver.status = 200
    await one.call("/items")
    await until(lambda: one.said("trace_receiver_up"))
    _, text = await one.ask("/metrics")
    counts = dict(re.findall(r'sidecar_trace_spans_total{outcome="(\w+)"} (\d+)', text))
    assert int(counts["failed"]) > 0
    assert int(counts["exported"]) > 0
    ended = one.said("request_ended")
    roots = {span["trace_id"] for span in receiver.spans if span["kind"] == SERVER}
    assert roots == {ended[-1]["trace_id"]}
    assert ended[-1]["trace_id"] == ended[-1]["request_id"].replace("-", "")


async def open_metrics(port: int) -> str:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with (
        aiohttp.ClientSession(headers=accept) as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        return await answer.text()


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_latency_histograms_have_traces_as_exemplars(
    serving: StartServing, stage: StartStage, receiver: Receiver, workers: int
) -> None:
    api = (await stage()).upstream.port
    one = await serving(
        upstream=f"http://127.0.0.1:{api}", trace_endpoint=receiver.url, trace_ratio=1,
        workers=workers, access_log=True,
    )  # fmt: skip
    for _ in range(20):
        assert (await one.call("/items"))[0] == 200
    await until(lambda: len(one.said("request_ended")) == 20)
    traces = {ended["trace_id"] for ended in one.said("request_ended")}
    text = await open_metrics(one.control)
    found = re.findall(
        r'(sidecar_\w+)_bucket{le="([^"]+)"} \S+ # {trace_id="(\w+)"} (\S+) \d+', text
    )
    assert {name for name, *_ in found} == {
        "sidecar_overhead_seconds", "sidecar_upstream_seconds", "sidecar_store_seconds",
    }  # fmt: skip
    for _, bound, trace, seconds in found:
        assert trace in traces
        assert float(seconds) <= float(bound)
    assert text.rstrip().endswith("# EOF")


def serve_flags(directory: Path, endpoint: str) -> list[str]:
    """A command line of `serve` that is valid, apart from the endpoint."""
    plans = directory / "plans.yaml"
    plans.write_text(plans_text())
    return [
        "serve", f"--plans={plans}", "--upstream=http://127.0.0.1:1",
        f"--spool={directory / 'spool'}", "--listen=127.0.0.1:0", "--control=127.0.0.1:0",
        f"--trace-endpoint={endpoint}",
    ]  # fmt: skip


def test_missing_packages_are_an_error_that_names_the_extra(tmp_path: Path) -> None:
    hidden = tmp_path / "opentelemetry" / "__init__.py"
    hidden.parent.mkdir()
    hidden.write_text('raise ModuleNotFoundError("hidden", name="opentelemetry")\n')
    search = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [SIDECAR, *serve_flags(tmp_path, "http://127.0.0.1:4318")], timeout=PATIENCE_S,
        env=clean_environment(PYTHONPATH=search), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: --trace-endpoint (SIDECAR_TRACE_ENDPOINT): needs OpenTelemetry, which is not "
        "installed",
        "try: run: pip install 'quota-sidecar[otel]'",
    ]


@pytest.mark.parametrize(
    "wrong", ["collector", "ftp://h", "http://h:99999", "http://u:secret@h", "http://h?k=secret"]
)
def test_an_endpoint_that_is_not_a_plain_url_is_refused(
    sidecar: Run, tmp_path: Path, wrong: str
) -> None:
    done = sidecar(*serve_flags(tmp_path, wrong))
    assert done.returncode == 2
    assert "error: --trace-endpoint" in done.stderr
    assert "secret" not in done.stderr
