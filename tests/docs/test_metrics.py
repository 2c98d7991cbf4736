"""docs/reference/metrics.md lists exactly the metrics and labels that sidecars publish."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.core.model import RequestClass
from sidecar.core.reasons import Reason
from sidecar.core.refusals.problems import HTTP_STATUSES
from sidecar.core.settlement import OutcomeReason
from sidecar.kubernetes.admission import KINDS, RESULTS
from sidecar.kubernetes.review_metrics import ReviewMetrics
from sidecar.metrics import INTERNAL_ERROR
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.settings import Settings
from tests.support.processes import StartServing
from tests.support.servers import free_port
from tests.support.stage import StartStage

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(sidecar_\w+)` \| (\w+) \|(.*?)\| (.+) \|$", re.MULTILINE)
Found = dict[str, tuple[str, frozenset[str]]]  # type and labels by the name that is queried


def documented() -> Found:
    """The rows of the tables."""
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in ROW.findall(DOCS)
    }


def published(text: str) -> Found:
    """The metrics of a scrape, without `le`, which every histogram has."""
    found: Found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if name.startswith("sidecar_"):
            found[name] = (family.type, frozenset(labels))
    return found


async def scrape(control: int) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{control}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """Flags that name a certificate made here."""
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"tls_cert": str(cert), "tls_key": str(key)}


async def test_the_documented_metrics_are_those_published(
    stage: StartStage,
    serving: StartServing,
    certificate: dict[str, str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sinks = f"file:{tmp_path / 'events'},redis"
    control = free_port()
    plain = await stage(control=f"127.0.0.1:{control}", sinks=sinks)
    shadow = "enforce: shadow, quota: 1/month"  # the second request counts as a shadow refusal
    plain.plans.write_text(re.sub(r"quota: \d+/month", shadow, plain.plans.read_text()))
    assert await plain.app.keeper.reload()
    for _ in range(2):
        await plain.call("GET", "/items")
    plain.app.metrics.capped("requests")  # as for an absurd cost in a response
    plain.app.metrics.estimated("requests", "missing")
    plain.app.metrics.settled("free", "rest", "requests", 1)
    plain.app.metrics.overage("free", "requests", 1)
    plain.app.metrics.crossed("free", "monthly", 50)
    one = published(await scrape(control))
    assert one["sidecar_requests_total"][1] == {"route", "class", "plan", "outcome"}
    tokens = tmp_path / "tokens"
    tokens.write_text("0123456789abcdef")
    several = await serving(
        upstream=f"http://127.0.0.1:{plain.upstream.port}",
        workers=2,
        sinks=sinks,
        spool=tmp_path_factory.mktemp("s"),  # a short name, for the sockets between workers
        trace_endpoint=f"http://127.0.0.1:{free_port()}",
        **certificate,
        **{f"decide_{name}": file for name, file in certificate.items()},
        decide=f"unix:{tmp_path / 'decide.sock'}",
        decide_grpc=f"127.0.0.1:{free_port()}",
        decide_token_file=str(tokens),
    )
    both = published(await scrape(several.control))
    quiet = {  # without requests there
        "sidecar_requests_total", "sidecar_shadow_refusals_total",
        "sidecar_settled_costs_capped_total", "sidecar_settled_costs_estimated_total",
        "sidecar_settled_units_total", "sidecar_overage_units_total",
        "sidecar_thresholds_crossed_total",
    }  # fmt: skip
    for name in one.keys() & both.keys() - quiet:
        assert both[name] == one[name]
    assert one.keys() < both.keys()
    assert both | one | of_the_webhook(certificate) == documented()


def of_the_webhook(certificate: dict[str, str]) -> Found:
    live = Certificate(*map(Path, certificate.values()))
    return published(ReviewMetrics(live).exposition("")[0].decode())


def test_the_documented_kinds_and_results_of_reviews_are_those_counted() -> None:
    page = paragraph("`result` is `patched`")
    assert set(re.findall(r"`(\w+)`", page)) == {*KINDS, *RESULTS, "kind", "result"}


def backticked(text: str) -> set[str]:
    return set(re.findall(r"`([a-z][\w-]*|-)`", text))


def paragraph(start: str) -> str:
    """The paragraph of the document that begins so."""
    return DOCS[DOCS.index(f"\n{start}") :].strip().partition("\n\n")[0]


def first_cells(below: str) -> Iterator[str]:
    """First column of the table that follows this line."""
    table = DOCS[DOCS.index(below) + len(below) :].strip().partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        yield row.split("`")[1]


def test_the_documented_outcomes_are_those_counted() -> None:
    forwarded = list(first_cells("Outcomes of forwarded requests:"))
    refused = backticked(paragraph("Outcomes of refused requests"))
    local = backticked(paragraph("Outcomes of requests that were answered before")) - {
        "route", "class", "plan", "-"
    }  # fmt: skip
    assert refused & set(forwarded) == {INTERNAL_ERROR}
    assert refused | set(forwarded) == {*Reason, *OutcomeReason, INTERNAL_ERROR}
    of_the_api = {500, 502, 503, 504}  # 500 is internal-error
    assert local == {f"http-{status}" for status in HTTP_STATUSES - of_the_api | {200, 204}}


def test_the_documented_classes_and_sinks_are_those_of_the_code() -> None:
    [row] = [line for line in DOCS.splitlines() if line.startswith("| `class` |")]
    assert backticked(row) == {*RequestClass, "class", "-", "route"}
    sinks = backticked(paragraph("`sink` is")) - {"sink"}
    flags = {"plans": "p.yaml", "upstream": "http://a", "sinks": "stdout,file:/x,redis"}
    assert sinks == {sink.partition(":")[0] for sink in Settings.load(flags).sinks}


async def test_the_documented_reasons_for_a_refused_connection_are_those_counted(
    stage: StartStage,
) -> None:
    control = free_port()
    await stage(control=f"127.0.0.1:{control}")
    counted = {
        sample.labels["reason"]
        for family in text_string_to_metric_families(await scrape(control))
        for sample in family.samples
        if sample.name == "sidecar_connections_refused_total"
    }
    assert counted == backticked(paragraph("`reason` is")) - {"reason"}


def test_every_metric_in_a_query_is_documented() -> None:
    known = set(documented())
    series = known | {
        name + suffix
        for name, (kind, _) in documented().items()
        if kind == "histogram"
        for suffix in ("_bucket", "_count", "_sum")
    }
    queries = [line for line in DOCS.splitlines() if line.startswith("    ")]
    assert len(queries) > 10
    assert set(re.findall(r"sidecar_\w+", "\n".join(queries))) <= series
