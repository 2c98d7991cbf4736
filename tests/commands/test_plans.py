"""check, schema and explain on real files, and explain against a real Valkey."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml

from sidecar.config.loading import load
from sidecar.core.identity import key_digest
from sidecar.stores import RedisLimitStore, Wire

PLANS = Path(__file__).parent.parent.parent / "examples" / "plans.yaml"
KEY = "demo-free-key"


def spend(url: str, requests: int) -> None:
    """Charge requests of the free account to its counters."""

    async def run() -> None:
        book = load(PLANS)
        key = book.keys[key_digest(KEY.encode())]
        claims = book.entitlements["free", "rest"].claims
        wire = Wire(url, timeout_s=5)
        await wire.start()
        store = RedisLimitStore(wire)
        for _ in range(requests):
            await store.reserve(key.account, key.id, claims)
        await wire.stop()

    asyncio.run(run())


def test_the_demo_has_the_example_plan_file() -> None:
    packaged = Path(__file__).parent.parent.parent / "sidecar" / "demo" / "plans.yaml"
    assert packaged.read_bytes() == PLANS.read_bytes()


def test_check_summarises_a_valid_file(sidecar: Any) -> None:
    done = sidecar("check", PLANS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{PLANS}: ok: 4 plans, 7 routes, 2 meters, 4 accounts, 4 keys")
    assert "sha256:" in done.stdout


def test_check_prints_every_problem_of_every_file(sidecar: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(PLANS.read_text().replace("rate: 5/s", "rate: 5 per s").replace("version", "v"))
    done = sidecar("check", bad, PLANS, tmp_path / "none.yaml")
    assert done.returncode == 1
    problems = [line for line in done.stdout.splitlines() if line.startswith(f"{bad}:")]
    assert len(problems) >= 2
    assert any('"5 per s" is not a rate' in line for line in problems)
    assert f"{PLANS}: ok" in done.stdout
    assert str(tmp_path / "none.yaml") in done.stdout


def test_schema_is_valid_and_has_every_section_of_the_example(sidecar: Any) -> None:
    done = sidecar("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(yaml.safe_load(PLANS.read_text())) <= set(schema["properties"])


def explain(sidecar: Any, url: str, *arguments: str, **environment: str) -> Any:
    done = sidecar("explain", "--plans", PLANS, "--redis", url, "--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_I2_explain_shows_the_state_and_changes_nothing(sidecar: Any, valkey_url: str) -> None:
    spend(valkey_url, 3)
    client = redis.Redis.from_url(valkey_url)
    before = {name: client.hgetall(name) for name in client.scan_iter()}
    answer = explain(sidecar, valkey_url, "--key", KEY, "GET", "/v1/items")
    assert answer["identity"]["account"] == "fred"
    assert answer["route"]["id"] == "rest"
    assert answer["class"] == "standard"
    monthly = next(row for row in answer["limits"] if row["id"] == "monthly")
    assert (monthly["used"], monthly["remaining"], monthly["limit"]) == (3, 997, 1000)
    assert monthly["resets_at"].endswith("-01T00:00:00Z")
    assert answer["decision"] == {"allowed": True, "reason": "ok", "overage": {}, "notices": []}
    assert {name: client.hgetall(name) for name in client.scan_iter()} == before
    client.close()


def test_explain_shows_why_a_request_would_be_refused(sidecar: Any, valkey_url: str) -> None:
    answer = explain(sidecar, valkey_url, "POST", "/v1/exports", "--key-env", "K", K=KEY)
    assert answer["decision"]["status"] == 403
    assert answer["features"]["missing_in"] == "pro"
    assert "request_id" not in answer["decision"]["problem"]


def test_explain_finds_keys_and_accounts_in_redis(sidecar: Any, valkey_url: str) -> None:
    secret = sidecar(
        "keys", "create", "--account", "zoe", "--plan", "pro", "--redis", valkey_url
    ).stdout.strip()
    answer = explain(sidecar, valkey_url, "--key", secret, "POST", "/v1/exports")
    assert (answer["identity"]["account"], answer["identity"]["known_from"]) == ("zoe", "redis")
    assert answer["decision"]["allowed"] is True
    answer = explain(sidecar, valkey_url, "--account", "zoe", "POST", "/v1/exports")
    assert answer["identity"]["plan"] == "pro"


def test_explain_does_not_repeat_an_unknown_key(sidecar: Any, valkey_url: str) -> None:
    answer = explain(sidecar, valkey_url, "--key", "wrong-key", "GET", "/v1/items")
    assert answer["identity"] is None
    assert (answer["decision"]["status"], answer["decision"]["reason"]) == (401, "unknown-key")
    assert "wrong-key" not in json.dumps(answer)


def test_explain_without_a_key_is_anonymous(sidecar: Any, valkey_url: str) -> None:
    answer = explain(sidecar, valkey_url, "GET", "/v1/items")
    assert answer["identity"]["account"] == "anonymous/127.0.0.1"
    assert answer["decision"]["allowed"] is True


def test_explain_without_redis_shows_the_static_part(sidecar: Any) -> None:
    done = sidecar(
        "explain", "--plans", PLANS, "--redis", "redis://u:hunter2@127.0.0.1:1",
        "--key", KEY, "GET", "/v1/items",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "account   fred (API key k1; account from the plan file)" in done.stdout
    assert "monthly: 1,000 requests per month; this request costs 1 request" in done.stdout
    assert "state     unknown: Redis is unavailable: 127.0.0.1:1 refuses connections" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--plans", "none.yaml", "GET", "/"], 2, "none.yaml"),
        (
            ["--plans", str(PLANS), "--account", "unknown", "GET", "/"],
            1,
            "neither in the plan file",
        ),
    ],
)
def test_explain_reports_what_it_cannot_do(
    sidecar: Any, valkey_url: str, arguments: list[str], code: int, message: str
) -> None:
    done = sidecar("explain", "--redis", valkey_url, *arguments)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
