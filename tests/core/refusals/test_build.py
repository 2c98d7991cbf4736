"""Every refusal explains itself, in JSON and as text."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.costs import HeaderSource, Meter, Reserve
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import (
    Account,
    Claim,
    Entitlement,
    Links,
    Pack,
    Plan,
    PlanBook,
    RequestClass,
    Route,
)
from sidecar.core.reasons import Decision, LimitStatus, Reason
from sidecar.core.refusals.build import (
    Refusal,
    feature_refusal,
    http_problem,
    limit_refusal,
    simple_refusal,
    wait_fields,
)
from sidecar.core.refusals.problems import HTTP_STATUSES
from sidecar.core.refusals.ratelimit_fields import policy_field
from sidecar.core.refusals.rendering import render_json, render_text

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "problems.md"
NOW = 1_796_083_200_000_000 - 1_209_600 * MICRO  # a fortnight before 2026-12-01T00:00:00Z
WAIT = 1_209_600 * MICRO
ALLOWING = {Reason.OK, Reason.OVERAGE, Reason.CRITICAL, Reason.STORE_DOWN, Reason.DEFERRED}
OF_LIMITS = {Reason.RATE, Reason.QUOTA, Reason.CONCURRENCY, Reason.ABUSE}
REASONS = {
    RateLimit: Reason.RATE, QuotaLimit: Reason.QUOTA, ConcurrencyLimit: Reason.CONCURRENCY
}  # fmt: skip
SLOTS = ConcurrencyLimit("in-flight", 50)
REFUSING = sorted(set(Reason) - ALLOWING)
ACME = Account("acme", "free")
GUARD = RateLimit("critical", "calls", 100, MICRO, 200, (100, 1))
RATE = RateLimit("per-second", "requests", 5, MICRO, 10, (5, 1))
QUOTA = QuotaLimit("monthly", "requests", 1000, "month", 1000)
CHAT = Route(
    "chat", "POST /v1/chat", "POST", "/v1/chat", RequestClass.STANDARD, frozenset(["ai"]), ()
)


def a_plan(name: str, rank: int, *limits: Limit) -> Plan:
    return Plan(name, rank, frozenset(), limits, GUARD, "deny")


def an_entitlement(
    plan: Plan, missing: tuple[str, ...] = (), has: str | None = None
) -> Entitlement:
    return Entitlement(plan, CHAT, (), missing, has, policy_field(plan.limits),
                       ("POST /v1/auth/**", "GET /v1/status"))  # fmt: skip


FREE = an_entitlement(a_plan("free", 0, RATE, QUOTA))
LADDER = (
    FREE,
    an_entitlement(a_plan("same", 1, RATE, QUOTA)),
    an_entitlement(a_plan("no-ai", 2), ("ai",), "builder"),
    an_entitlement(a_plan("builder", 3, replace(RATE, units=50, burst=100),
                          replace(QUOTA, units=9000, cap=9000))),
)  # fmt: skip


def a_book(ladder: tuple[Entitlement, ...] = LADDER, **changes: Any) -> PlanBook:
    book = PlanBook(
        version="sha256:ab",
        meters={"requests": Meter("requests", "request")},
        routes=(CHAT,),
        plans={one.plan.id: one.plan for one in ladder},
        entitlements={(one.plan.id, CHAT.id): one for one in ladder},
        links=Links("https://acme.dev/pricing", "https://acme.dev/docs"),
    )
    return replace(book, **changes)


def a_standing(
    limit: Limit = QUOTA, cost: int = 1, used: int = 1000, **changes: Any
) -> LimitStatus:
    if isinstance(limit, ConcurrencyLimit):
        full = LimitStatus(Claim(limit, cost, False), limit.slots, limit.slots, 0, None)
        return full._replace(**changes)
    units = limit.burst if isinstance(limit, RateLimit) else limit.units
    left = max(0, units - used)
    standing = LimitStatus(Claim(limit, cost, False), units, used, left, NOW + WAIT)
    return standing._replace(**changes)


def refused(
    *violated: LimitStatus,
    jitter: int = 0,
    book: PlanBook | None = None,
    entitlement: Entitlement = FREE,
    **changes: Any,
) -> Refusal:
    worst = violated[0]
    reason = REASONS[type(worst.claim.limit)]
    retry = None if worst.reset_us is None else worst.reset_us - NOW
    retry = MICRO if reason is Reason.CONCURRENCY else retry
    decision = Decision(False, reason, NOW, worst, violated, retry)._replace(**changes)
    return limit_refusal(book or a_book(), entitlement, ACME, decision, "019", jitter)


def any_refusal(reason: Reason) -> Refusal:
    if reason is Reason.FEATURE:
        lacking = an_entitlement(FREE.plan, ("ai",), "builder")
        return feature_refusal(a_book(), lacking, ACME, "019")
    if reason is Reason.ABUSE:
        return refused(a_standing(GUARD, used=200), reason=reason, tightest=None)
    if reason in OF_LIMITS:
        limits = {Reason.RATE: RATE, Reason.QUOTA: QUOTA, Reason.CONCURRENCY: SLOTS}
        return refused(a_standing(limits[reason]))
    return simple_refusal(reason, "019")


@pytest.mark.parametrize("reason", REFUSING)
def test_I10_every_refusal_explains_itself(reason: Reason) -> None:
    refusal = any_refusal(reason)
    problem = json.loads(render_json(refusal))
    assert refusal.reason == reason
    assert problem["type"].startswith("https://")
    assert problem["status"] == refusal.status >= 400
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert problem["how_to_fix"]
    assert all(step["action"] for step in problem["how_to_fix"])
    assert problem["request_id"] == "019"
    text = render_text(refusal).decode()
    for words in (str(refusal.status), problem["title"], problem["detail"], "019"):
        assert words in text
    assert text.count("\n- ") >= len(problem["how_to_fix"])


@pytest.mark.parametrize("status", sorted(HTTP_STATUSES))
def test_I10_errors_of_http_explain_themselves_and_are_documented(status: int) -> None:
    refusal = http_problem(status, "Title", "What happened.", "019")
    assert (refusal.status, refusal.reason) == (status, f"http-{status}")
    assert refusal.problem["how_to_fix"]
    assert refusal.problem["detail"] == "What happened."
    assert b"How to fix it:\n- " in render_text(refusal)
    assert f"`http-{status}`" in DOCS.read_text()


@pytest.mark.parametrize("reason", REFUSING)
def test_I10_every_reason_is_documented_with_its_status_and_type(reason: Reason) -> None:
    refusal = any_refusal(reason)
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{reason}` |")]
    assert len(rows) == 1
    assert f"| {refusal.status} |" in rows[0]
    slug = str(refusal.problem["type"]).rpartition("#")[2].rpartition("/")[2]
    assert slug in DOCS.read_text()


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Reason.AMBIGUOUS, 400), (Reason.NO_CREDENTIAL, 401), (Reason.UNKNOWN_KEY, 401),
     (Reason.SUSPENDED, 402), (Reason.FEATURE, 403), (Reason.BAD_TARGET, 400),
     (Reason.NO_ROUTE, 404), (Reason.STORE_UNAVAILABLE, 503), (Reason.SPOOL_FULL, 503),
     (Reason.DRAINING, 503), (Reason.QUOTA, 429), (Reason.RATE, 429), (Reason.ABUSE, 429),
     (Reason.CONCURRENCY, 429), (Reason.QUEUE_FULL, 429), (Reason.OTHER_CALL, 422)],
)  # fmt: skip
def test_each_reason_has_its_status(reason: Reason, status: int) -> None:
    refusal = any_refusal(reason)
    assert refusal.status == status
    challenge = (b"WWW-Authenticate", b'Bearer realm="api"')
    assert (challenge in refusal.headers) == (status == 401)
    assert (refusal.retry_after_s is not None) == (status in (429, 503))


@pytest.mark.parametrize("reason", [Reason.OK, Reason.QUOTA])
def test_only_reasons_that_need_no_limit_are_simple(reason: Reason) -> None:
    with pytest.raises(KeyError):
        simple_refusal(reason, "019")


def test_a_used_up_quota_reads_as_in_the_documentation() -> None:
    refusal = refused(a_standing())
    assert json.loads(render_json(refusal)) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Monthly quota used up",
        "status": 429,
        "detail": "Account acme on plan free has used 1,000 of 1,000 requests this month. "
        "It resets on 2026-12-01T00:00:00Z.",
        "violated-policies": ["monthly"],
        "limit": {"id": "monthly", "meter": "requests", "limit": 1000, "used": 1000,
                  "resets_at": "2026-12-01T00:00:00Z"},
        "still_available": ["POST /v1/auth/**", "GET /v1/status"],
        "how_to_fix": [
            {"action": "wait", "until": "2026-12-01T00:00:00Z"},
            {"action": "upgrade", "plan": "builder", "href": "https://acme.dev/pricing"},
            {"action": "read_docs", "href": "https://acme.dev/docs"},
        ],
        "request_id": "019",
    }  # fmt: skip
    assert refusal.retry_after_s == 1_209_600
    assert refusal.headers == (
        (b"RateLimit-Policy", b'"per-second";q=5;w=1, "monthly";q=1000;w=2592000'),
        (b"RateLimit", b'"monthly";r=0;t=1209600'),
    )


def test_the_same_refusal_as_text() -> None:
    assert render_text(refused(a_standing())).decode().splitlines() == [
        "429 Monthly quota used up",
        "",
        "Account acme on plan free has used 1,000 of 1,000 requests this month. "
        "It resets on 2026-12-01T00:00:00Z.",
        "",
        "How to fix it:",
        "- Wait until 2026-12-01T00:00:00Z.",
        "- Upgrade to plan builder: https://acme.dev/pricing",
        "- Read https://acme.dev/docs",
        "",
        "Still available:",
        "- POST /v1/auth/**",
        "- GET /v1/status",
        "",
        "Request id: 019",
    ]


def test_a_refusal_for_a_rate_advises_to_slow_down() -> None:
    refusal = refused(a_standing(RATE, used=10, reset_us=NOW + 200_000))
    assert refusal.problem["detail"] == (
        "Account acme on plan free may use 5 requests per second, at most 10 at once, "
        "and has 0 left now. Enough is back in 1 second."
    )
    assert {"action": "slow_down", "to": "5 requests per second"} in refusal.problem["how_to_fix"]  # type: ignore[operator]
    assert refusal.retry_after_s == 1


@pytest.mark.parametrize(
    ("standing", "sentence"),
    [
        (
            a_standing(replace(QUOTA, per="key")),
            "This API key of account acme on plan free has used",
        ),
        (a_standing(cost=10, used=995), "This request costs 10."),
        (a_standing(replace(QUOTA, cap=1200), used=1200), "The plan allows overage up to 1,200."),
        (a_standing(replace(QUOTA, period="cycle")), "this billing cycle."),
        (a_standing(replace(RATE, window_us=60 * MICRO)), "5 requests per minute"),
        (a_standing(replace(RATE, window_us=10 * MICRO)), "5 requests per 10 seconds"),
        (a_standing(replace(RATE, window_us=100_000, units=1)), "1 request per 100 ms"),
        (a_standing(GUARD, used=200), "100 requests per second"),
    ],
)
def test_the_detail_explains_the_case(standing: LimitStatus, sentence: str) -> None:
    assert sentence in str(refused(standing).problem["detail"])


@pytest.mark.parametrize(
    "standing",
    [
        a_standing(cost=1001, used=0, reset_us=None),
        a_standing(RATE, cost=11, used=0, reset_us=None),
    ],
)
def test_no_retry_is_offered_when_waiting_never_helps(standing: LimitStatus) -> None:
    reserve = Reserve(HeaderSource(b"x-units"), 1, 0)
    asked = replace(FREE, estimates=(("requests", reserve),))
    refusal = refused(standing, entitlement=asked)
    assert refusal.retry_after_s is None
    assert "waiting does not help" in str(refusal.problem["detail"])
    steps = [step["action"] for step in refusal.problem["how_to_fix"]]  # type: ignore[attr-defined]
    assert steps == ["ask_for_less", "upgrade", "read_docs"]
    assert b"Ask for at most 1" in render_text(refusal)
    fixed = [step["action"] for step in refused(standing).problem["how_to_fix"]]  # type: ignore[attr-defined]
    assert fixed == ["upgrade", "read_docs"], "its cost is not in the request"


@pytest.mark.parametrize(
    ("wait_us", "jitter", "seconds"),
    [(1, 0, 1), (1, 99, 1), (MICRO + 1, 0, 2), (100 * MICRO, 0, 100), (100 * MICRO, 99, 109),
     (300 * MICRO, 50, 315), (WAIT, 99, 1_209_629)],
)  # fmt: skip
def test_retry_after_is_rounded_up_and_spread_but_never_early(
    wait_us: int, jitter: int, seconds: int
) -> None:
    refusal = refused(a_standing(reset_us=NOW + wait_us), jitter=jitter)
    assert refusal.retry_after_s == seconds
    t = int(refusal.headers[1][1].rpartition(b"t=")[2])
    assert seconds >= t


def test_all_violated_limits_are_named_and_must_be_lifted_by_the_upgrade() -> None:
    rate = a_standing(RATE, used=10, reset_us=NOW + 200_000)
    assert refused(a_standing(), rate).problem["violated-policies"] == ["monthly", "per-second"]
    slow = an_entitlement(a_plan("slow", 1, RATE, replace(QUOTA, cap=9000)))
    fast = an_entitlement(a_plan("fast", 2))
    assert b'"plan":"fast"' in render_json(
        refused(a_standing(), rate, book=a_book((FREE, slow, fast)))
    )


@pytest.mark.parametrize(
    ("limits", "cost", "helps"),
    [
        ((QUOTA,), 1, False),
        ((replace(QUOTA, cap=1001),), 1, True),
        ((replace(QUOTA, cap=1001),), 1002, False),
        ((replace(QUOTA, id="daily", period="day", cap=100),), 1, True),
        ((replace(QUOTA, id="daily", period="day", cap=30),), 1, False),
        ((replace(QUOTA, cap=1001), replace(QUOTA, id="daily", period="day", cap=30)), 1, True),
        ((replace(QUOTA, per="key"),), 1, True),
        ((replace(QUOTA, meter="tokens"),), 1, True),
        ((RATE,), 1, True),
    ],
)  # fmt: skip
def test_an_upgrade_is_offered_only_when_it_helps(
    limits: tuple[Limit, ...], cost: int, helps: bool
) -> None:
    book = a_book((FREE, an_entitlement(a_plan("next", 1, *limits))))
    body = render_json(refused(a_standing(cost=cost), book=book))
    assert (b'"upgrade"' in body) == helps


BOOST = Pack("boost", "monthly", "requests", 10_000, "cycle", "5.00 USD")


def test_a_pack_is_offered_where_it_would_help() -> None:
    packs = {"boost": BOOST, "other": replace(BOOST, id="other", limit="weekly")}
    book = replace(a_book(), packs=packs, links=Links(packs="https://acme.dev/packs/{pack}"))
    steps = refused(a_standing(), book=book).problem["how_to_fix"]
    assert {
        "action": "buy_pack", "pack": "boost", "units": 10_000, "price": "5.00 USD",
        "href": "https://acme.dev/packs/boost",
    } in steps  # type: ignore[operator]  # fmt: skip
    text = render_text(refused(a_standing(), book=book)).decode()
    assert "- Buy pack boost, 10,000 more for 5.00 USD: https://acme.dev/packs/boost\n" in text
    assert "other" not in text
    both = refused(a_standing(), a_standing(RATE), book=book)
    assert "boost" not in str(both.problem["how_to_fix"])  # the rate would still refuse


def test_a_refusal_for_slots_is_explained_with_a_short_retry() -> None:
    refusal = refused(a_standing(SLOTS))
    assert refusal.problem["title"] == "Too many requests at once"
    assert "may have 50 requests in flight at once, and all are" in str(refusal.problem["detail"])
    assert refusal.retry_after_s == 1
    assert refusal.problem["limit"] == {
        "id": "in-flight", "meter": "calls", "limit": 50, "used": 50, "resets_at": None
    }  # fmt: skip


def test_links_that_the_plan_file_lacks_are_left_out() -> None:
    body = render_json(refused(a_standing(), book=a_book(links=Links())))
    assert b"href" not in body
    assert b'{"action":"upgrade","plan":"builder"}' in body


def test_abuse_of_critical_requests_has_its_own_type() -> None:
    problem = any_refusal(Reason.ABUSE).problem
    assert str(problem["type"]).endswith("#abnormal-usage-detected")
    assert problem["still_available"] == []
    assert "upgrade" not in str(problem["how_to_fix"])


def test_a_missing_feature_names_the_plan_that_has_it() -> None:
    problem = any_refusal(Reason.FEATURE).problem
    assert problem["detail"] == (
        "POST /v1/chat needs the feature ai, which plan free of account acme does not include. "
        "Plan builder does."
    )
    assert problem["missing_features"] == ["ai"]
    assert problem["how_to_fix"] == [
        {"action": "upgrade", "plan": "builder", "href": "https://acme.dev/pricing"},
        {"action": "read_docs", "href": "https://acme.dev/docs"},
    ]


def test_a_feature_that_no_plan_has_refers_to_the_apis_team() -> None:
    lacking = an_entitlement(FREE.plan, ("ai", "bulk"))
    problem = feature_refusal(a_book(links=Links()), lacking, ACME, "019").problem
    assert "features ai and bulk" in str(problem["detail"])
    assert problem["how_to_fix"] == [{"action": "ask", "what": "Ask the API's team for access."}]


def test_a_simple_refusal_accepts_a_sentence_and_jitter() -> None:
    refusal = simple_refusal(Reason.SPOOL_FULL, "019", "The disk is full.", jitter=50)
    assert (refusal.problem["detail"], refusal.retry_after_s) == ("The disk is full.", 45)


def test_a_limit_refusal_needs_a_violated_limit() -> None:
    with pytest.raises(ValueError, match="violated"):
        limit_refusal(a_book(), FREE, ACME, Decision(False, Reason.RATE, NOW), "019", 0)


def test_bodies_are_utf_8() -> None:
    refusal = simple_refusal(Reason.NO_PLAN, "019", "Plan «été» is gone.")
    assert "«été»".encode() in render_json(refusal)
    assert "«été»".encode() in render_text(refusal)


@pytest.mark.parametrize(("queued_us", "ms"), [(1, b"1"), (1_000, b"1"), (1_001, b"2")])
def test_a_wait_is_reported_in_ms_rounded_up(queued_us: int, ms: bytes) -> None:
    fields = dict(wait_fields(queued_us))
    assert fields == {b"X-Queued-Ms": ms, b"Server-Timing": b"queued;dur=" + ms}
