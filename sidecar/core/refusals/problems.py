"""Texts of every refusal that is not about a limit; docs/reference/problems.md lists them."""

from dataclasses import dataclass
from typing import Any, Final

from sidecar.core.reasons import Reason

OWN_TYPES: Final = "https://quota-sidecar.dev/problems/"
_REGISTERED: Final = "https://iana.org/assignments/http-problem-types#"
# The draft's problem types (draft-ietf-httpapi-ratelimit-headers-11, section 6).
QUOTA_EXCEEDED: Final = _REGISTERED + "quota-exceeded"
ABNORMAL_USAGE: Final = _REGISTERED + "abnormal-usage-detected"
REDUCED_CAPACITY: Final = _REGISTERED + "temporary-reduced-capacity"

Step = dict[str, Any]
Fields = tuple[tuple[bytes, bytes], ...]

_CHALLENGE: Final[Fields] = ((b"WWW-Authenticate", b'Bearer realm="api"'),)


@dataclass(frozen=True, slots=True)
class Spec:
    """One kind of problem. `retry_after_s`: when to try again; None if waiting does not help."""

    status: int
    type: str
    title: str
    detail: str
    how_to_fix: tuple[Step, ...]
    retry_after_s: int | None = None
    headers: Fields = ()


def _own(slug: str, status: int, title: str, detail: str, *steps: Step) -> Spec:
    headers = _CHALLENGE if status == 401 else ()
    return Spec(status, OWN_TYPES + slug, title, detail, steps, headers=headers)


def _temporary(retry_after_s: int, title: str, detail: str) -> Spec:
    step: Step = {"action": "wait", "seconds": retry_after_s}
    return Spec(503, REDUCED_CAPACITY, title, detail, (step,), retry_after_s)


def _step(action: str, what: str) -> Step:
    return {"action": action, "what": what}


_SEND_KEY = _step("send_key", "Send your API key as X-Api-Key, or as Authorization: Bearer.")

SPECS: Final[dict[Reason, Spec]] = {
    Reason.AMBIGUOUS: _own(
        "ambiguous-credential", 400, "More than one credential",
        "The request has a credential header twice, or two credentials that differ. So it is not "
        "clear which account it belongs to.",
        _step("send_one_credential", "Send one X-Api-Key or one Authorization header."),
    ),
    Reason.NO_CREDENTIAL: _own(
        "no-credential", 401, "API key needed",
        "The request has no API key, and this API does not answer requests without one.",
        _SEND_KEY,
    ),
    Reason.UNKNOWN_KEY: _own(
        "unknown-key", 401, "Unknown API key",
        "The API key of this request is unknown. It may be mistyped, or revoked.",
        _step("check_key", "Compare the API key with the one you received; ask for a new one if "
            "it was revoked."),
    ),
    Reason.SUSPENDED: _own(
        "suspended", 402, "Account suspended",
        "The account that this API key belongs to is suspended, usually for an unpaid invoice.",
        _step("settle_account", "Pay open invoices, or ask the API's team to lift the suspension."),
    ),
    Reason.FEATURE: _own(
        "missing-feature", 403, "Not part of the plan",
        "The plan of this account does not include this endpoint.",
        _step("upgrade", "Move to a plan that includes it."),
    ),
    Reason.NO_PLAN: _own(
        "no-plan", 403, "Plan not offered",
        "The plan of this account is not offered by this API.",
        _step("change_plan", "Ask the API's team to move the account to a plan that is offered."),
    ),
    Reason.BAD_TARGET: _own(
        "bad-target", 400, "Ambiguous request path",
        "The path of this request can be read in more than one way, so it is not forwarded.",
        _step("simplify_path", "Send the plain path: no encoded slashes, backslashes or control "
            "characters, no double encoding, no '..', no ';', no dot at the end of a segment, "
            "no fragment."),
    ),
    Reason.NO_ROUTE: _own(
        "no-route", 404, "No such endpoint",
        "No route of this API matches the method and path of this request.",
        _step("check_address", "Compare method and path with the API's documentation."),
    ),
    Reason.QUEUE_FULL: Spec(
        429, OWN_TYPES + "queue-full", "Too many deferred jobs",
        "This request does not fit into the plan's limits now, and the job queue is full.",
        (_step("wait_or_cancel", "Wait until jobs have ended, or cancel some: send DELETE to their "
               "addresses."),),
        retry_after_s=60,
    ),
    Reason.OTHER_CALL: _own(
        "idempotency-key-reused", 422, "Idempotency-Key used before",
        "A job was accepted under this Idempotency-Key for a request with another method, path or "
        "body.",
        _step("use_new_key", "Send a new Idempotency-Key with each new request."),
    ),
    Reason.BAD_KEY: _own(
        "invalid-idempotency-key", 400, "Invalid Idempotency-Key",
        "The Idempotency-Key of this request is not valid.",
        _step("correct_key", "Send one Idempotency-Key of 1 to 256 bytes, or none."),
    ),
    Reason.JOB_RATE: Spec(
        429, OWN_TYPES + "job-rate", "Too many changes of deferred jobs",
        "This account adds and cancels deferred jobs too fast. Nothing was changed or charged.",
        (_step("slow_down", "Add and cancel fewer jobs per minute."),),
        retry_after_s=1,
    ),
    Reason.STORE_UNAVAILABLE: _temporary(
        5, "The request cannot be checked",
        "The limits of this request cannot be checked right now, so it was not forwarded. "
        "Nothing was charged.",
    ),
    Reason.SPOOL_FULL: _temporary(
        30, "Usage cannot be recorded",
        "The usage of this request cannot be recorded right now, so it was not forwarded. "
        "Nothing was charged.",
    ),
    Reason.SHED: _temporary(
        1, "The API is overloaded",
        "The API is overloaded and serves more important requests first, so this request was not "
        "forwarded. Nothing was charged. This is not about your quota.",
    ),
    Reason.DRAINING: _temporary(
        1, "Shutting down",
        "A part of this service is shutting down, so this request was not forwarded. "
        "Nothing was charged.",
    ),
}  # fmt: skip

SHED_BY_SHARE: Final = (
    "This account has its share of the requests that the API can work on at once, so this request "
    "was not forwarded. Other accounts keep theirs. Nothing was charged. This is not about your "
    "quota."
)

_HTTP_STEPS: Final[dict[int, Step]] = {
    400: _step("correct_request", "Send a valid HTTP/1.1 request (RFC 9112)."),
    404: _step("check_address", "Compare method and path with the API's documentation."),
    405: _step("use_other_method", "Use a method that this address supports."),
    408: _step("send_faster", "Send the whole request without long pauses, then try again."),
    409: _step("get_state", "Get the job's current state."),
    413: _step("send_less", "Send a smaller body, or several smaller requests."),
    414: _step("shorten_url", "Send a shorter URL; move long parameters into the body."),
    417: _step("send_no_expectation", "Leave the Expect field out, or send 100-continue."),
    431: _step("send_fewer_headers", "Send fewer or smaller header fields and cookies."),
    500: _step("retry", "Try again. If it happens again, report the request id to the API's team."),
    501: _step("use_other_feature", "Use a supported method and transfer coding."),
    502: _step("retry", "Try again later; the API did not give a valid answer."),
    503: _step("retry", "Try again in a moment."),
    504: _step("retry", "Try again later; the API did not answer in time."),
    505: _step("use_http_1_1", "Use HTTP/1.1."),
    508: _step("report_loop", "Report a proxy loop to the API's team."),
}


def http_spec(status: int, title: str, detail: str) -> Spec:
    """Return the problem for an error of HTTP itself. Raises KeyError for an unknown status."""
    retry_after_s = 1 if status == 503 else None
    kind = REDUCED_CAPACITY if status == 503 else f"{OWN_TYPES}http-{status}"
    return Spec(status, kind, title, detail, (_HTTP_STEPS[status],), retry_after_s)


HTTP_STATUSES: Final = frozenset(_HTTP_STEPS)
