"""Answers to gateways: fields to add, decisions as JSON, refusals, errors of the decide port."""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final

import orjson

from sidecar.core.kinds import MICRO
from sidecar.core.reasons import Decision
from sidecar.core.refusals.build import Refusal, wait_fields
from sidecar.core.refusals.problems import OWN_TYPES
from sidecar.core.refusals.ratelimit_fields import legacy_fields, ratelimit_field
from sidecar.core.refusals.rendering import render_json, render_text
from sidecar.decide.decisions import Decided, Settled
from sidecar.gate import Admission, Refused
from sidecar.proxy.responses import LocalReply, prefers_text

Pairs = list[tuple[bytes, bytes]]

REFUSAL: Final = b"X-Refusal"
ERROR: Final = b"X-Decide-Error"  # on errors of the decide port, and on no refusal
MAX_REFUSAL: Final = 6_144  # bytes of a refusal in a header field, before base64


def request_texts(admission: Admission) -> dict[str, str]:
    """The fields that a gateway sets on an allowed request, in place of the client's."""
    key = admission.key
    return {
        "X-Account-Id": key.account.id,
        "X-Plan": admission.entitlement.plan.id,
        "X-Key-Id": key.id,
        "X-Request-Id": admission.request_id,
    }


def request_fields(admission: Admission) -> Pairs:
    """The same as header fields."""
    return [(name.encode(), text.encode()) for name, text in request_texts(admission).items()]


def response_fields(admission: Admission, *, legacy: bool) -> Pairs:
    """The fields that a gateway adds to the response to an allowed request."""
    fields: Pairs = [(b"X-Request-Id", admission.request_id.encode())]
    decision = admission.decision
    tightest = decision.tightest
    if tightest is not None:
        fields.append((b"RateLimit-Policy", admission.entitlement.policy_field))
        fields.append((b"RateLimit", ratelimit_field(tightest, decision.now_us)))
        if legacy:
            fields.extend(legacy_fields(tightest, decision.now_us))
    if admission.queued_us:
        fields.extend(wait_fields(admission.queued_us))
    return fields


def refusal_fields(refused: Refused, *, legacy: bool) -> Pairs:
    """The fields of a refusal, without those of its body."""
    refusal, decision = refused.refusal, refused.decision
    fields: Pairs = []
    if refusal.retry_after_s is not None:
        fields.append((b"Retry-After", b"%d" % refusal.retry_after_s))
    fields.extend(refusal.headers)
    if legacy and decision is not None and decision.tightest is not None:
        fields.extend(legacy_fields(decision.tightest, decision.now_us))
    fields.append((b"Cache-Control", b"no-store"))
    fields.append((b"X-Request-Id", refused.request_id.encode()))
    return fields


def refusal_body(refusal: Refusal, accept: bytes) -> tuple[bytes, bytes]:
    """Content-Type and body of a refusal, as the client prefers."""
    if prefers_text(accept):
        return b"text/plain; charset=utf-8", render_text(refusal)
    return b"application/problem+json", render_json(refusal)


def decision_document(decided: Decided, accept: bytes, *, legacy: bool) -> bytes:
    """The answer to POST /v1/decide."""
    refused, admission = decided.refused, decided.admission
    if admission is not None:
        entitlement, decision = admission.entitlement, admission.decision
        route = entitlement.route
        document: dict[str, Any] = {
            "decision": "allow",
            "id": decided.id or None,
            "reason": str(decision.reason),
            "request_id": admission.request_id,
            "account": admission.key.account.id,
            "key": admission.key.id,
            "plan": entitlement.plan.id,
            "route": route.id,
            "class": str(route.request_class),
            "left": _left(decision),
            "request_headers": request_texts(admission),
            "response_headers": _texts(response_fields(admission, legacy=legacy)),
        }
        if decided.id:
            document["report"] = _wanted(admission)
        return orjson.dumps(document)
    assert refused is not None  # noqa: S101 - a decision has one of the two
    kind, body = refusal_body(refused.refusal, accept)
    key, known = refused.key, refused.entitlement
    fields = [(b"Content-Type", kind), *refusal_fields(refused, legacy=legacy)]
    return orjson.dumps(
        {
            "decision": "refuse",
            "id": None,
            "reason": str(refused.refusal.reason),
            "request_id": refused.request_id,
            "account": None if key is None else key.account.id,
            "key": None if key is None else key.id,
            "plan": None if known is None else known.plan.id,
            "route": None if known is None else known.route.id,
            "class": None if known is None else str(known.route.request_class),
            "left": None if refused.decision is None else _left(refused.decision),
            "status": refused.refusal.status,
            "headers": _texts(fields),
            "body": body.decode(),
        }
    )


def _left(decision: Decision) -> dict[str, Any] | None:
    """What is left of the tightest limit; None without limits."""
    tightest = decision.violated[0] if decision.violated else decision.tightest
    if tightest is None:
        return None
    reset_us = tightest.reset_us
    return {
        "limit": tightest.claim.limit.id,
        "remaining": tightest.remaining,
        "reset_s": None if reset_us is None else max(0, -(-(reset_us - decision.now_us) // MICRO)),
    }


def _wanted(admission: Admission) -> list[str]:
    """What the report has to contain, in addition to the status, for a cost in the response."""
    entitlement = admission.entitlement
    wanted = ["usage"] if entitlement.settles else []
    if entitlement.settles or entitlement.reads_response:
        wanted.append("headers")
    if entitlement.reads or entitlement.reads_response:
        wanted.append("body")
    return wanted


def _texts(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields}


def settlement_document(decision_id: str, settled: Settled) -> bytes:
    """The answer to POST /v1/settle."""
    return orjson.dumps({"id": decision_id, "usage": settled.usage, "billable": settled.billable})


def carried_refusal(refused: Refused, accept: bytes, *, legacy: bool) -> bytes:
    """A whole refusal as the value of one header field, for gateways that drop the body."""
    kind, body = refusal_body(refused.refusal, accept)
    if len(body) > MAX_REFUSAL:  # a plan file with very many routes that stay open
        problem = {k: v for k, v in refused.refusal.problem.items() if k != "still_available"}
        kind, body = b"application/problem+json", orjson.dumps(problem)
    fields = [(b"Content-Type", kind), *refusal_fields(refused, legacy=legacy)]
    document = {
        "status": refused.refusal.status, "headers": _texts(fields), "body": body.decode(),
    }  # fmt: skip
    return urlsafe_b64encode(orjson.dumps(document))


def port_problem(
    request_id: str, status: int, title: str, detail: str, step: str, member: str = ""
) -> LocalReply:
    """An error of the decide port itself, for the gateway. `member`: the one that is wrong."""
    problem: dict[str, object] = {
        "type": f"{OWN_TYPES}decide-{status}",
        "title": title,
        "status": status,
        "detail": detail,
        "how_to_fix": [{"action": "correct_gateway", "what": step}],
        "request_id": request_id,
    }
    if member:
        problem["member"] = member
    refusal = Refusal(status, f"decide-{status}", problem, None, ())
    fields = ((ERROR, b"%d" % status),)
    return LocalReply(request_id, status, refusal.reason, refusal, fields)
