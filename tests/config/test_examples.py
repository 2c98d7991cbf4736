"""The example plan files: valid, accepted by the schema, compiled as their comments say."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from sidecar.config.loading import load
from sidecar.config.schema import schema
from sidecar.core.json_cost import Formula, JsonCost
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Team

EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = sorted(EXAMPLES.glob("*.yaml"))


class WithoutDates(yaml.SafeLoader):
    """YAML loader that leaves dates as strings, as JSON does."""


WithoutDates.add_constructor("tag:yaml.org,2002:timestamp", WithoutDates.construct_yaml_str)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_example_passes_check(path: Path) -> None:
    sidecar = Path(sys.executable).parent / "sidecar"
    done = subprocess.run(
        [sidecar, "check", "--strict", path],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith(f"{path}: ok: ")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_schema_accepts_every_example(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    example = yaml.load(path.read_text(), WithoutDates)  # noqa: S506 - a SafeLoader
    assert list(validator.iter_errors(example)) == []


def test_the_saas_example_compiles_to_its_plans() -> None:
    book = load(EXAMPLES / "plans.yaml")
    pro = book.plans["pro"]
    assert [limit.id for limit in pro.limits] == [
        "per-second", "monthly", "per-key", "exports", "in-flight"
    ]  # fmt: skip
    assert isinstance(pro.limits[1], QuotaLimit)
    assert pro.limits[1].cap == 1_200_000
    assert "upstream_5xx" in pro.refunds
    assert book.entitlements["pro", "rest"].stays_open
    assert not book.entitlements["free", "rest"].stays_open
    enterprise = {limit.id: limit for limit in book.plans["enterprise"].limits}
    assert enterprise["hourly"].shadow
    assert isinstance(enterprise["monthly"], QuotaLimit)
    assert enterprise["monthly"].rollover == 4_000_000
    boost = book.packs["boost-10k"]
    assert (boost.limit, boost.lasts, book.packs["boost-100k"].lasts) == (
        "monthly", "cycle", "7776000s"
    )  # fmt: skip
    assert book.entitlements["free", "export"].missing_in == "pro"
    assert book.entitlements["free", "status"].claims[-1].limit is book.plans["free"].critical_guard


def test_the_ai_example_reserves_and_settles_tokens() -> None:
    book = load(EXAMPLES / "ai.yaml")
    chat = book.entitlements["free", "chat"]
    [(meter, reserve)] = chat.estimates
    assert (meter, reserve.default, chat.read_up_to) == ("tokens", 2048, 262_144)
    assert isinstance(reserve.path, Formula)
    assert reserve.path.paths[0].text == "max_tokens"
    [(settled, source)] = chat.settles
    assert settled == "tokens"
    assert isinstance(source, JsonCost)
    assert source.whole.paths[0].text == "usage.total_tokens"
    assert {claim.limit.id: claim.cost for claim in chat.claims} == {
        "per-minute": 1, "tokens-per-minute": 2048, "monthly-tokens": 2048,
    }  # fmt: skip
    embeddings = book.entitlements["free", "embeddings"]
    assert (embeddings.estimates, embeddings.read_up_to) == ((), 0), "the request is not read"
    assert embeddings.settles == chat.settles
    assert dict(embeddings.route.cost)["tokens"] == 500


def test_a_route_without_token_cost_reads_no_body() -> None:
    book = load(EXAMPLES / "ai.yaml")
    for route in ("models", "health", "rest"):
        one = book.entitlements["pro", route]
        assert (one.estimates, one.settles, one.read_up_to) == ((), (), 0)
    assert book.entitlements["free", "models"].claims == ()
    assert "GET /v1/models/**" in book.entitlements["free", "chat"].still_available


def test_the_teams_example_guarantees_shares_of_the_account() -> None:
    book = load(EXAMPLES / "teams.yaml")
    acme = book.accounts["acme"]
    assert acme.teams == (Team("search", 40), Team("ads", 30, lends=False))
    assert {key.id: key.counted_team for key in book.keys.values()} == {
        "search-1": "search", "ads-1": "ads", "tools": ""
    }  # fmt: skip
