"""The answers to Envoy: fields to set on both ways, or the whole refusal."""

from base64 import b64encode
from typing import Any, Final

from sidecar.core.refusals.build import Refusal
from sidecar.decide.answers import (
    Pairs,
    refusal_body,
    refusal_fields,
    request_fields,
    response_fields,
)
from sidecar.decide.grpc.messages import (
    CheckResponse,
    ErrorInfo,
    QuotaFailure,
    RetryInfo,
    Status,
)
from sidecar.gate import Admission, Refused

DOMAIN: Final = "quota-sidecar.dev"  # of the reasons in ErrorInfo
METADATA_ID: Final = "decision"  # under which Envoy's access log has the id of the decision
_PERMISSION_DENIED: Final = 7
_APPEND, _OVERWRITE = 0, 2
_SHARED: Final = frozenset({b"RateLimit", b"RateLimit-Policy"})  # the API may have its own

# Codes of gRPC for the statuses of refusals.
_CODES: Final = {400: 3, 401: 16, 402: 7, 403: 7, 404: 12, 413: 8, 429: 8, 500: 13, 503: 14}
_UNKNOWN: Final = 2
_TYPE: Final = "type.googleapis.com/google.rpc."


def allowed(decision_id: str, admission: Admission, *, legacy: bool) -> bytes:
    """The answer for an allowed request. `decision_id`: "" if it is settled already."""
    response = CheckResponse()
    response.status.code = 0
    ok = response.ok_response
    for name, value in request_fields(admission):
        _set(ok.headers, name, value, _OVERWRITE)
    for name, value in response_fields(admission, legacy=legacy):
        action = _APPEND if name in _SHARED else _OVERWRITE
        _set(ok.response_headers_to_add, name, value, action)
    entitlement = admission.entitlement
    known = {
        "account": admission.key.account.id,
        "key": admission.key.id,
        "plan": entitlement.plan.id,
        "route": entitlement.route.id,
        "class": str(entitlement.route.request_class),
        "reason": str(admission.decision.reason),
        "request_id": admission.request_id,
    }
    if decision_id:
        known[METADATA_ID] = decision_id
    _publish(response, known)
    serialized: bytes = response.SerializeToString()
    return serialized


def refused(refused: Refused, accept: bytes, *, in_grpc: bool, legacy: bool) -> bytes:
    """The answer for a refused request. `in_grpc`: its client speaks gRPC."""
    refusal = refused.refusal
    response = CheckResponse()
    response.status.code = _PERMISSION_DENIED
    denied = response.denied_response
    denied.status.code = refusal.status
    fields: Pairs = refusal_fields(refused, legacy=legacy)
    if in_grpc:  # Envoy makes the head of a gRPC response, and its message from the body
        fields += _status_fields(refusal, refused)
        denied.body = str(refusal.problem["title"])
    else:
        kind, body = refusal_body(refusal, accept)
        fields.append((b"Content-Type", kind))
        denied.body = body.decode()
    for name, value in fields:
        _set(denied.headers, name, value, _OVERWRITE)
    known = {"reason": str(refusal.reason), "request_id": refused.request_id}
    if refused.key is not None:
        known["account"], known["key"] = refused.key.account.id, refused.key.id
    _publish(response, known)
    serialized: bytes = response.SerializeToString()
    return serialized


def _set(options: Any, name: bytes, value: bytes, action: int) -> None:
    option = options.add()
    option.header.key = name.decode()
    option.header.value = value.decode()
    option.append_action = action


def _publish(response: Any, known: dict[str, str]) -> None:
    """Set Envoy's dynamic metadata, which its logs and later filters can use."""
    for name, text in known.items():
        entry = response.dynamic_metadata.fields.add(key=name)
        entry.value.string_value = text


def _status_fields(refusal: Refusal, refused: Refused) -> Pairs:
    """The status of a gRPC response, with details that gRPC libraries parse."""
    status = Status(code=_CODES.get(refusal.status, _UNKNOWN))
    problem = refusal.problem
    status.message = str(problem["title"])
    _detail(status, "ErrorInfo", _error_info(refusal))
    if refusal.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.seconds = refusal.retry_after_s
        _detail(status, "RetryInfo", retry)
    if refusal.status == 429:
        failure = QuotaFailure()
        account = "" if refused.key is None else f"account:{refused.key.account.id}"
        failure.violations.add(subject=account, description=str(problem["detail"]))
        _detail(status, "QuotaFailure", failure)
    encoded = b64encode(status.SerializeToString()).rstrip(b"=")
    return [(b"grpc-status", b"%d" % status.code), (b"grpc-status-details-bin", encoded)]


def _error_info(refusal: Refusal) -> Any:
    info = ErrorInfo(reason=str(refusal.reason).upper().replace("-", "_"), domain=DOMAIN)
    info.metadata.add(key="type", value=str(refusal.problem["type"]))
    info.metadata.add(key="detail", value=str(refusal.problem["detail"]))
    info.metadata.add(key="request_id", value=str(refusal.problem["request_id"]))
    return info


def _detail(status: Any, name: str, message: Any) -> None:
    status.details.add(type_url=_TYPE + name, value=message.SerializeToString())
