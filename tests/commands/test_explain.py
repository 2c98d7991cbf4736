"""`sidecar explain` decides as `sidecar serve` with the same settings."""

import hashlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.commands.explain_text import _limit_line
from sidecar.core.kinds import UNBOUNDED
from tests.support.servers import free_port

PLANS = Path(__file__).parent.parent.parent / "examples" / "plans.yaml"
KEY = "demo-free-key"
LIKE_THE_API = {"SIDECAR_IGNORE_PATH_CASE": "true", "SIDECAR_ALLOW_IN_PATH": "encoded-slash"}


class Api(BaseHTTPRequestHandler):
    """Answers every request with 200."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the base class's way

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def places(api: str, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings with all addresses."""
    return {
        "SIDECAR_REDIS": valkey_url,
        "SIDECAR_UPSTREAM": api,
        "SIDECAR_LISTEN": f"127.0.0.1:{free_port()}",
        "SIDECAR_CONTROL": f"127.0.0.1:{free_port()}",
        "SIDECAR_SPOOL": str(tmp_path / "spool"),
    }


def served(spawn: Any, settings: dict[str, str]) -> tuple[Any, int]:
    """Start a sidecar; it, and its port."""
    process = spawn("serve", **settings)
    while '"event":"sidecar_serving"' not in (line := process.stderr.readline()).replace(" ", ""):
        assert line, "serve ended before it served"
    return process, int(settings["SIDECAR_LISTEN"].rpartition(":")[2])


def status_of(port: int, method: str, path: str, *, key: str = KEY, prefer: str = "") -> int:
    """Send a request and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        fields = {"X-Api-Key": key, "Prefer": prefer}
        given = {name: value for name, value in fields.items() if value}
        connection.request(method, path, headers=given)
        return connection.getresponse().status
    finally:
        connection.close()


CALLS = [
    ("GET", "/v1/items"),
    ("POST", "/v1/exports"),
    ("POST", "/V1/Exports"),
    ("GET", "/v1%2Fitems"),
    ("POST", "/v1%2Fexports"),
    ("GET", "/v1/..%2F"),
    ("GET", "/-/usage"),
    ("GET", "/own/usage"),
]


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, {"/v1/exports": 403, "/v1%2Fexports": 400, "/v1/..%2F": 400, "/-/usage": 404}),
        (
            LIKE_THE_API,
            {"/v1/exports": 403, "/V1/Exports": 403, "/v1/..%2F": 400, "/-/usage": 404},
        ),
        (
            {"SIDECAR_RESERVED_PREFIX": "/own/"},
            {"/v1/exports": 403, "/v1%2Fexports": 400, "/v1/..%2F": 400, "/own/usage": 404},
        ),
    ],
)
def test_explain_and_serve_decide_alike(
    sidecar: Any, spawn: Any, places: dict[str, str],
    settings: dict[str, str], refused: dict[str, int],
) -> None:  # fmt: skip
    settings = settings | {"SIDECAR_PLANS": str(PLANS)} | places
    process, port = served(spawn, settings)
    for method, path in CALLS:
        done = sidecar("explain", "--json", "--key", KEY, method, path, **settings)
        assert done.returncode == 0, done.stderr
        decision = json.loads(done.stdout)["decision"]
        status = status_of(port, method, path)
        assert status == refused.get(path, 200), path
        assert decision["allowed"] is (path not in refused), path
        assert decision.get("status", 200) == status, path
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


SPENT = """
version: 1
meters: {requests: {unit: request}}
routes:
  - {id: export, match: "POST /v1/exports", class: deferrable}
  - {id: rest, match: "/**"}
plans: {free: {limits: [{id: monthly, meter: requests, quota: 1/month}]}}
anonymous: {plan: free}
accounts: [{id: fred, plan: free, keys: [{id: k1, sha256: %s}]}]
"""
EXPORT, ITEMS, ASKED = ("POST", "/v1/exports"), ("GET", "/v1/items"), "--respond-async"


def test_explain_and_serve_defer_alike(
    sidecar: Any, spawn: Any, places: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "plans.yaml").write_text(SPENT % hashlib.sha256(KEY.encode()).hexdigest())
    settings = {"SIDECAR_PLANS": "plans.yaml"} | places
    process, port = served(spawn, settings)

    def explained(*options: str, key: str = KEY) -> dict[str, Any]:
        who = ["--key", key] if key else []
        done = sidecar("explain", "--json", *who, *options, **settings)
        assert done.returncode == 0, done.stderr
        decision: dict[str, Any] = json.loads(done.stdout)["decision"]
        return decision

    assert explained(*EXPORT)["allowed"]
    for key in (KEY, ""):
        assert status_of(port, *ITEMS, key=key) == 200  # all that there is
    for call, prefer, status in [
        (EXPORT, "", 202), (ITEMS, "", 429), (ITEMS, "respond-async", 202),
    ]:  # fmt: skip
        assert status_of(port, *call, prefer=prefer) == status
        decision = explained(*call, *[ASKED] * bool(prefer))
        assert (decision["status"], decision["deferred"]) == (status, status == 202)
        assert (decision["allowed"], decision["reason"]) == (False, "quota")
    assert status_of(port, *EXPORT, key="") == 429  # a job needs a key to run with
    assert explained(*EXPORT, key="")["status"] == 429
    assert explained(*EXPORT, "--jobs", "off")["status"] == 429
    words = sidecar("explain", "--key", KEY, *EXPORT, **settings).stdout
    assert "decision  deferred: 202 quota\nruns      later, as a job;" in words
    assert "has used 1 of 1 request this month" in words
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("flags", "call", "route"),
    [
        ([], "POST /V1/Exports", "rest"),
        (["--ignore-path-case"], "POST /V1/Exports", "export"),
        (["--allow-in-path", "encoded-slash"], "GET /v1%2Fexports", "rest"),
        (["--config", "sidecar.yaml"], "POST /V1/Exports", "export"),
    ],
)
def test_flags_and_the_settings_file_decide_as_variables_do(
    sidecar: Any, tmp_path: Path, flags: list[str], call: str, route: str
) -> None:
    (tmp_path / "sidecar.yaml").write_text("ignore_path_case: true\nlisten: nonsense\n")
    done = sidecar(
        "explain", "--json", "--account", "fred", *flags, *call.split(),
        SIDECAR_PLANS=str(PLANS), SIDECAR_REDIS="redis://127.0.0.1:1/0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["route"]["id"] == route


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            ("BAD METHOD", "/x"),
            '"BAD METHOD" is not a method that is forwarded\ntry: write one like',
        ),
        (
            ("TRACE", "/x"),
            '"TRACE" is not a method that is forwarded\ntry: write one like GET or POST',
        ),
        (("TRACE", "/x"), '"TRACE" is not a method'),
        (("GET", "v1/items"), '"v1/items" is not a path\ntry: write one such as /v1/items'),
        (("GET", "http://api/v1"), "try: write one such as /v1/items, without scheme and host"),
    ],
)
def test_an_invalid_method_or_path_is_an_error_with_a_remedy(
    sidecar: Any, call: tuple[str, str], sentence: str
) -> None:
    done = sidecar("explain", *call, SIDECAR_PLANS=str(PLANS))
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("method", ["get", "PROPFIND", "M-SEARCH"])
def test_every_method_that_serve_forwards_is_explained(sidecar: Any, method: str) -> None:
    done = sidecar(
        "explain", "--account", "fred", method, "/x",
        SIDECAR_PLANS=str(PLANS), SIDECAR_REDIS="redis://127.0.0.1:1/0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{method.upper()} /x\n")


@pytest.mark.parametrize(
    ("period", "text"),
    [
        ("hour", "10 requests per hour"),
        ("cycle", "10 requests per billing cycle"),
        ("month", "10 requests per month"),
    ],
)
def test_a_quota_is_printed_with_its_unit_and_its_period(
    sidecar: Any, tmp_path: Path, period: str, text: str
) -> None:
    (tmp_path / "plans.yaml").write_text(
        "version: 1\n"
        "meters: {requests: {unit: request}}\n"
        'routes: [{id: rest, match: "/**"}]\n'
        f"plans: {{free: {{limits: [{{id: q, meter: requests, quota: 10/{period}}}]}}}}\n"
        "anonymous: {plan: free}\n"
    )
    done = sidecar("explain", "GET", "/", SIDECAR_PLANS="plans.yaml",
                   SIDECAR_REDIS="redis://127.0.0.1:1/0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"  q: {text}; this request costs 1 request" in done.stdout


def test_the_share_of_a_team_is_printed(sidecar: Any, valkey_url: str, tmp_path: Path) -> None:
    plans = tmp_path / "plans.yaml"
    text = (PLANS.parent / "teams.yaml").read_text()
    plans.write_text(text.replace("search: 40%", "search: {share: 40%, lend: false}"))
    env = {"SIDECAR_PLANS": str(plans), "SIDECAR_REDIS": valkey_url}
    done = sidecar("explain", "--key", "demo-ads-key", "GET", "/", **env)
    assert done.returncode == 0, done.stderr
    assert "account   acme (API key ads-1, team ads; account from the plan file)" in done.stdout
    assert (
        "(team ads: used 0 of 300 guaranteed, may use 600 now; 400 guaranteed to other teams)"
    ) in done.stdout
    told = json.loads(
        sidecar("explain", "--key", "demo-tools-key", "--json", "GET", "/", **env).stdout
    )
    assert told["identity"]["team"] is None
    monthly = next(row for row in told["limits"] if row["id"] == "monthly")
    assert monthly["team"] == {
        "id": None, "guaranteed": 0, "lends": False, "used": 0, "guarantee_left": 0,
        "guaranteed_to_others": 700, "remaining": 300,
    }  # fmt: skip
    assert [row["id"] for row in told["limits"]] == ["per-second", "monthly", "per-key"]


def test_15_explain_of_a_suspended_account_shows_its_limits(
    sidecar: Any, valkey_url: str, tmp_path: Path
) -> None:
    plans = tmp_path / "plans.yaml"
    plans.write_text(
        'version: 1\nmeters: {requests: {unit: request}}\nroutes: [{id: rest, match: "/**"}]\n'
        "plans: {p: {limits: [{id: q, meter: requests, quota: 9/day}]}}\n"
        "accounts: [{id: acme, plan: p, status: suspended}]\n"
    )
    done = sidecar("explain", "--plans", plans, "--redis", valkey_url, "--account", "acme", "GET",
                   "/x")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "does not answer" not in done.stdout
    assert "used 0, left 9" in done.stdout
    assert "402" in done.stdout


def test_limit_lines_name_slots_api_keys_and_overage_without_a_cap() -> None:
    row = {"id": "one", "per": "account", "limit": 50, "unit": "request", "cost": 1}
    slots = _limit_line({**row, "kind": "concurrency"})
    assert slots == "one: concurrency 50; this request takes 1 slot"
    quota = _limit_line({**row, "kind": "quota", "period": "month", "hard_cap": UNBOUNDED})
    assert "(overage without cap)" in quota
    rate = _limit_line({**row, "kind": "rate", "per": "key", "rate": "50 requests per second"})
    assert rate.startswith("one: 50 requests per second, burst 50, for each API key;")


def test_an_account_of_redis_cannot_be_explained_without_redis_and_has_a_remedy(
    sidecar: Any,
) -> None:
    flags = ("--plans", PLANS, "--redis", "redis://127.0.0.1:1", "--account", "zoe")
    done = sidecar("explain", *flags, "GET", "/v1/items")
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()
    assert error == (
        "error: --redis (SIDECAR_REDIS): 127.0.0.1:1 refuses connections, and account zoe is not "
        "in the plan file"
    )
    assert remedy == "try: start it, or name another with --redis URL"


@pytest.mark.parametrize(
    ("mode", "allowed", "text"),
    [
        ("local", None, "depends on the local share of each sidecar while Redis is unavailable"),
        ("deny", False, "refused: 503 store-unavailable"),
        ("allow", True, "allowed without Redis, as the route's class or the plan says"),
    ],
)
def test_without_redis_the_decision_is_that_of_the_plan(
    sidecar: Any, tmp_path: Path, mode: str, allowed: bool | None, text: str
) -> None:
    plans = tmp_path / "plans.yaml"
    plans.write_text(
        "version: 1\nmeters: {requests: {unit: request}}\n"
        'routes: [{id: login, match: "/login", class: critical}, {id: rest, match: "/**"}]\n'
        f"plans: {{p: {{when_store_is_down: {mode}, "
        "limits: [{id: q, meter: requests, quota: 9/day}]}}\n"
        "accounts: [{id: acme, plan: p}, {id: bea, plan: p, status: suspended}]\n"
    )
    flags = ("--plans", plans, "--redis", "redis://127.0.0.1:1", "--account", "acme")
    done = sidecar("explain", *flags, "GET", "/x")
    assert done.returncode == 0, done.stderr
    assert f"decision  {text}" in done.stdout
    assert "state     unknown: Redis is unavailable: 127.0.0.1:1 refuses connections" in done.stdout
    decision = json.loads(sidecar("explain", *flags, "--json", "GET", "/x").stdout)["decision"]
    assert decision["allowed"] is allowed
    assert decision.get("depends_on") == ("local share" if mode == "local" else None)
    critical = sidecar("explain", *flags, "GET", "/login").stdout
    assert "decision  allowed without Redis" in critical
    suspended = sidecar("explain", *flags[:-1], "bea", "GET", "/x").stdout
    assert "decision  refused: 402" in suspended


NOTICES = """
version: 1
meters: {requests: {unit: request}}
routes:
  - {id: five, match: "/five", cost: {requests: 5}}
  - {id: rest, match: "/**"}
plans:
  p:
    limits:
      - {id: q, meter: requests, quota: 10/month,
         at: {50%: notice, 80%: notice, 90%: notice, 100%: overage, 400%: reject}}
anonymous: {plan: p}
"""


def test_only_thresholds_that_the_request_would_cross_are_named(
    sidecar: Any, spawn: Any, places: dict[str, str], tmp_path: Path
) -> None:
    """As the notices of the same requests do, which are recorded."""
    plans = tmp_path / "plans.yaml"
    plans.write_text(NOTICES)
    settings = places | {"SIDECAR_PLANS": str(plans)}
    process, port = served(spawn, settings)

    def crossed(path: str) -> list[str]:
        """What explain says of a request, before it is sent."""
        done = sidecar("explain", "GET", path, **settings)
        assert done.returncode == 0, done.stderr
        assert status_of(port, "GET", path, key="") == 200
        return [line for line in done.stdout.splitlines() if "crosses" in line]

    assert [crossed("/one") for _ in range(4)] == [[]] * 4
    assert crossed("/one") == ["  crosses 50% of q"]
    assert [crossed("/one") for _ in range(2)] == [[]] * 2
    assert crossed("/five") == ["  crosses 80% of q", "  crosses 90% of q"]
    assert [crossed("/five") for _ in range(3)] == [[]] * 3
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    events = [
        json.loads(line)
        for path in (tmp_path / "spool").glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    notices = [one["data"]["percent"] for one in events if one["type"] == "account.notice.v1"]
    assert notices == [50, 80, 90]
