"""Texts of every refusal that is not about a limit; docs/reference/problems.md lists them."""

from dataclasses import dataclass
from typing import Final

from sidecar.core.reasons import Reason

OURS: Final = "https://quota-sidecar.dev/problems/"
_REGISTERED: Final = "https://iana.org/assignments/http-problem-types#"
# The draft's problem types (draft-ietf-httpapi-ratelimit-headers-11, section 6).
QUOTA_EXCEEDED: Final = _REGISTERED + "quota-exceeded"
ABNORMAL_USAGE: Final = _REGISTERED + "abnormal-usage-detected"
REDUCED_CAPACITY: Final = _REGISTERED + "temporary-reduced-capacity"

Step = dict[str, object]
Fields = tuple[tuple[bytes, bytes], ...]

_CHALLENGE: Final[Fields] = ((b"WWW-Authenticate", b'Bearer realm="api"'),)


@dataclass(frozen=True, slots=True)
class Spec:
    """One kind of problem. `retry_after_s`: when it is worth another try; None: not by waiting."""

    status: int
    type: str
    title: str
    detail: str
    how_to_fix: tuple[Step, ...]
    retry_after_s: int | None = None
    headers: Fields = ()


def _ours(slug: str, status: int, title: str, detail: str, *steps: Step) -> Spec:
    headers = _CHALLENGE if status == 401 else ()
    return Spec(status, OURS + slug, title, detail, steps, headers=headers)


def _busy(retry_after_s: int, title: str, detail: str) -> Spec:
    step: Step = {"action": "wait", "seconds": retry_after_s}
    return Spec(503, REDUCED_CAPACITY, title, detail, (step,), retry_after_s)


def _do(action: str, what: str) -> Step:
    return {"action": action, "what": what}


_SEND_KEY = _do("send_key", "Send your API key as X-Api-Key, or as Authorization: Bearer.")

SPECS: Final[dict[Reason, Spec]] = {
    Reason.AMBIGUOUS: _ours(
        "ambiguous-credential", 400, "More than one credential",
        "The request carries a credential header twice, or two credentials that differ, so that "
        "it cannot be told who is calling.",
        _do("send_one_credential", "Send one X-Api-Key or one Authorization header, not several."),
    ),
    Reason.NO_CREDENTIAL: _ours(
        "no-credential", 401, "API key needed",
        "The request carries no API key, and this API does not answer calls without one.",
        _SEND_KEY,
    ),
    Reason.UNKNOWN_KEY: _ours(
        "unknown-key", 401, "Unknown API key",
        "The API key of this request is not known here. It may be mistyped, or revoked.",
        _do("check_key", "Compare the key with the one you were given; ask for a new one if it "
            "was revoked."),
    ),
    Reason.SUSPENDED: _ours(
        "suspended", 402, "Account suspended",
        "The account that this API key belongs to is suspended, usually for an unpaid invoice.",
        _do("settle_account", "Pay what is open, or ask the API's team to lift the suspension."),
    ),
    Reason.FEATURE: _ours(
        "missing-feature", 403, "Not part of the plan",
        "The plan of this account does not include this endpoint.",
        _do("upgrade", "Move to a plan that includes it."),
    ),
    Reason.NO_PLAN: _ours(
        "no-plan", 403, "Plan no longer offered",
        "The plan of this account is not offered any more.",
        _do("change_plan", "Ask the API's team to move the account to a plan that is offered."),
    ),
    Reason.BAD_TARGET: _ours(
        "bad-target", 400, "Ambiguous request path",
        "The path of this request can be read in more than one way, so it is not forwarded.",
        _do("simplify_path", "Send the plain path: no encoded slashes, backslashes or control "
            "characters, no double encoding, no '..', no ';', no dot at the end of a segment, "
            "no fragment."),
    ),
    Reason.NO_ROUTE: _ours(
        "no-route", 404, "No such endpoint",
        "No route of this API matches the method and path of this request.",
        _do("check_address", "Compare method and path with the API's documentation."),
    ),
    Reason.QUEUE_FULL: Spec(
        429, OURS + "queue-full", "Too many deferred jobs",
        "This call does not fit into the plan's limits now, and as many jobs wait already as may.",
        (_do("wait_or_cancel", "Wait until jobs have ended, or cancel some: DELETE their "
             "addresses."),),
        retry_after_s=60,
    ),
    Reason.OTHER_CALL: _ours(
        "idempotency-key-reused", 422, "Idempotency-Key used before",
        "A job was accepted under this Idempotency-Key for a call with another method, path or "
        "body.",
        _do("use_new_key", "Send a new Idempotency-Key with each new call."),
    ),
    Reason.STORE_UNAVAILABLE: _busy(
        5, "Limits cannot be checked",
        "This call's limits cannot be checked right now, so it was not forwarded. "
        "Nothing was charged.",
    ),
    Reason.SPOOL_FULL: _busy(
        30, "Usage cannot be recorded",
        "This call's usage cannot be recorded right now, so it was not forwarded. "
        "Nothing was charged.",
    ),
    Reason.SHED: _busy(
        1, "The API is overloaded",
        "The API has as many calls in flight as it can answer in time, and this one is of a class "
        "that goes after others. It was not forwarded, and nothing was charged: this is not about "
        "your quota.",
    ),
    Reason.DRAINING: _busy(
        1, "Shutting down",
        "This instance is shutting down and takes no new calls. Nothing was charged.",
    ),
}  # fmt: skip

_HTTP_STEPS: Final[dict[int, Step]] = {
    400: _do("correct_request", "Send a valid HTTP/1.1 request (RFC 9112)."),
    404: _do("check_address", "Compare method and path with the API's documentation."),
    405: _do("use_other_method", "Use a method that this address supports."),
    408: _do("send_faster", "Send the whole request without long pauses, then try again."),
    409: _do("look_again", "Look at it again: it has gone on meanwhile."),
    413: _do("send_less", "Send a smaller body, or several smaller requests."),
    414: _do("shorten_url", "Send a shorter URL; move long parameters into the body."),
    417: _do("send_no_expectation", "Leave the Expect field out, or send 100-continue."),
    431: _do("send_fewer_headers", "Send fewer or smaller header fields and cookies."),
    500: _do("retry", "Try again; report the request id if it happens again."),
    501: _do("use_other_feature", "Do without the method or encoding that is not supported."),
    502: _do("retry", "Try again later; the API behind this proxy did not answer properly."),
    503: _do("retry", "Try again in a moment."),
    504: _do("retry", "Try again later; the API behind this proxy did not answer in time."),
    505: _do("use_http_1_1", "Use HTTP/1.1."),
    508: _do("end_loop", "Let the API's team look at the proxies: it came round again."),
}


def http_spec(status: int, title: str, detail: str) -> Spec:
    """The problem for an error of HTTP itself. Raises KeyError for a status that is not ours."""
    retry_after_s = 1 if status == 503 else None
    kind = REDUCED_CAPACITY if status == 503 else f"{OURS}http-{status}"
    return Spec(status, kind, title, detail, (_HTTP_STEPS[status],), retry_after_s)


HTTP_STATUSES: Final = frozenset(_HTTP_STEPS)
