"""identify and entitle: the key, the route and the plan of a request, and refusals without them."""

import pytest

from sidecar.core.identity import key_digest
from sidecar.core.model import Account, Key, PlanChange
from sidecar.core.reasons import Reason
from sidecar.gate import Refused
from tests.support.builders import SECRET, a_book, a_plan, a_quota, a_request
from tests.support.gate_stage import START_US, DictDirectory, GateStage

OTHER = b"other-key"
SUSPENDED = a_book(account=Account("acme", "free", suspended=True))


async def test_a_key_of_the_plan_file_needs_no_lookup() -> None:
    stage = GateStage()
    admission = await stage.allowed()
    assert (admission.key.id, admission.key.account.id) == ("k1", "acme")
    assert stage.directory.lookups == 0


async def test_another_key_is_looked_up_in_the_directory() -> None:
    zoe = Key("k2", Account("zoe", "free"))
    stage = GateStage(directory=DictDirectory({key_digest(OTHER): zoe}))
    admission = await stage.allowed(a_request(api_keys=[OTHER]))
    assert (admission.key, stage.directory.lookups) == (zoe, 1)


@pytest.mark.parametrize(
    ("stage", "request_fields", "reason", "status"),
    [
        (lambda: GateStage(), {"api_keys": []}, Reason.NO_CREDENTIAL, 401),
        (lambda: GateStage(), {"api_keys": [b"a", b"b"]}, Reason.AMBIGUOUS, 400),
        (lambda: GateStage(), {"api_keys": [OTHER]}, Reason.UNKNOWN_KEY, 401),
        (
            lambda: GateStage(directory=DictDirectory(None)),
            {"api_keys": [OTHER]}, Reason.STORE_UNAVAILABLE, 503,
        ),
        (lambda: GateStage(SUSPENDED), {}, Reason.SUSPENDED, 402),
    ],
)  # fmt: skip
async def test_a_request_without_a_usable_key_is_refused(
    stage: object, request_fields: dict[str, object], reason: Reason, status: int
) -> None:
    here: GateStage = stage()  # type: ignore[operator]
    refused = await here.refused(a_request(**request_fields))
    assert (refused.refusal.reason, refused.refusal.status) == (reason, status)
    assert (refused.key, here.counts()) == (None, {("-", reason): 1})


async def test_without_redis_the_detail_is_about_the_api_key_that_is_looked_up() -> None:
    stage = GateStage(directory=DictDirectory(None))
    refused = await stage.refused(a_request(api_keys=[OTHER]))
    detail = str(refused.refusal.problem["detail"])
    assert detail.startswith("The API key of this request cannot be looked up right now")
    assert "limits" not in detail


async def test_anonymous_requests_share_the_account_of_their_address() -> None:
    stage = GateStage(a_book(anonymous_plan="free"))
    admission = await stage.allowed(a_request(api_keys=[]))
    assert admission.key.account.id == "anonymous/192.0.2.1"
    refused = await stage.gate.identify(a_request(api_keys=[]))
    assert isinstance(refused, Refused)
    assert refused.refusal.reason == Reason.NO_CREDENTIAL


async def test_an_account_moves_to_its_next_plan_at_its_instant() -> None:
    account = Account("acme", "free", next_plan=PlanChange("gone", START_US + 10))
    stage = GateStage(a_book(account=account))
    assert (await stage.allowed()).entitlement.plan.id == "free"
    stage.clock.us += 10
    refused = await stage.refused()
    assert refused.refusal.reason == Reason.NO_PLAN
    detail = str(refused.refusal.problem["detail"])
    assert "is on plan gone, which this API does not offer" in detail


@pytest.mark.parametrize(
    ("target", "reason", "status"),
    [
        (b"/a%5Cb", Reason.BAD_TARGET, 400),
        (b"/gold", Reason.FEATURE, 403),
    ],
)
async def test_a_request_without_an_entitlement_is_refused_and_free(
    target: bytes, reason: Reason, status: int
) -> None:
    stage = GateStage()
    refused = await stage.refused(a_request(target))
    assert (refused.refusal.reason, refused.refusal.status) == (reason, status)
    assert await stage.used() == (0,)
    assert stage.gate.entitlement_of(a_request(target), Key("k1", Account("acme", "free"))) is None


async def test_I7_a_reload_decides_the_next_request_and_no_earlier_one() -> None:
    stage = GateStage()
    before = await stage.allowed()
    stage.gate.reload(a_book(a_plan(id="pro"), version="sha256:cd"))
    assert (await stage.allowed()).entitlement.plan.id == "pro"
    assert (before.entitlement.plan.id, before.plan_version) == ("free", "sha256:ab")
    assert key_digest(SECRET) in stage.gate.book.keys


async def test_I7_a_reload_changes_a_plan_that_was_in_use() -> None:
    stage = GateStage(a_book(a_plan(a_quota(9))))
    await stage.allowed()
    stage.gate.reload(a_book(a_plan(a_quota(1)), version="sha256:cd"))
    assert (await stage.refused()).refusal.reason == Reason.QUOTA
