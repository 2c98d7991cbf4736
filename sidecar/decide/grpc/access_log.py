"""Envoy's access log service: each entry reports how an allowed request ended."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from google.protobuf.message import DecodeError

from sidecar.decide.decisions import Decisions
from sidecar.decide.documents import InvalidDocument, parse_report
from sidecar.decide.grpc.messages import LogsMessage
from sidecar.decide.grpc.responses import METADATA_ID
from sidecar.decide.peers import Peers, PeerUnavailable
from sidecar.decide.report import NOT_SENT
from sidecar.logs import logger

log = logger("decide")

# Namespaces of Envoy's dynamic metadata: its filter's, and one for units per meter.
FILTER: Final = "envoy.filters.http.ext_authz"
USAGE: Final = "quota_sidecar.usage"

MAX_EXACT: Final = 2**53  # of whole numbers in a double

# Envoy's flags in the order in which they explain an end without the API's whole response.
_OUTCOMES: Final = (
    ("upstream_overflow", "overloaded"),
    ("no_healthy_upstream", "upstream_refused"),
    ("upstream_connection_failure", "upstream_refused"),
    ("dns_resolution_failure", "upstream_refused"),
    ("upstream_request_timeout", "upstream_timeout"),
    ("stream_idle_timeout", "upstream_timeout"),
    ("duration_timeout", "upstream_timeout"),
    ("upstream_max_stream_duration_reached", "upstream_timeout"),
    ("upstream_connection_termination", "upstream_broken"),
    ("upstream_remote_reset", "upstream_broken"),
    ("upstream_protocol_error", "upstream_broken"),
    ("local_reset", "upstream_broken"),
    ("downstream_connection_termination", "client_gone"),
    ("downstream_remote_reset", "client_gone"),
    ("downstream_protocol_error", "client_gone"),
)
# Statuses of HTTP for codes of gRPC, as in google.rpc.code.
_STATUSES: Final = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400,
    12: 501, 13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip


class AccessLog:
    """Settles decisions by the entries of Envoy's access log.

    `peers`: the other workers; None with one worker. `unknown` counts entries whose decision is not
    open here: it was settled without a report, or its sidecar has ended.
    """

    def __init__(self, decisions: Decisions, peers: Peers | None = None) -> None:
        self.settled = 0
        self.unknown = 0
        self.invalid = 0
        self._decisions = decisions
        self._peers = peers

    async def take(self, data: bytes) -> None:
        """Settle by the entries of a StreamAccessLogsMessage. Raises InvalidDocument."""
        try:
            message = LogsMessage.FromString(data)
        except DecodeError:
            raise InvalidDocument("", "the message is not a StreamAccessLogsMessage") from None
        for entry in message.http_logs.log_entry:
            decision_id = _decision_of(entry)
            if decision_id and not entry.common_properties.intermediate_log_entry:
                await self._settle(orjson.dumps(report_document(decision_id, entry)))

    async def _settle(self, document: bytes) -> None:
        try:
            decision_id, report = parse_report(document)
        except InvalidDocument as error:
            self.invalid += 1
            if self.invalid == 1:
                log.warning("access_log_entry_rejected", error=str(error))
            return
        worker, decisions = int(decision_id.rpartition(".")[2]), self._decisions
        found = False
        try:
            if worker == decisions.worker:
                found = await decisions.settle(decision_id, report) is not None
            elif self._peers is not None:
                answer = await self._peers.settle(worker, document)
                found = answer is not None and answer.startswith(b"HTTP/1.1 200 ")
        except PeerUnavailable as error:
            log.warning("access_log_entry_lost", error=str(error))
        except Exception as error:  # of the spool; the next entries are settled
            log.error("access_log_settlement_failed", exc_info=error)
        if found:
            self.settled += 1
        else:
            self.unknown += 1


def _metadata(entry: Any, namespace: str) -> dict[str, Any]:
    """The values of a namespace."""
    for one in entry.common_properties.metadata.filter_metadata:
        if one.key == namespace:
            return {field.key: field.value for field in one.value.fields}
    return {}


def _decision_of(entry: Any) -> str:
    """The id of the decision; "" for a request that was not allowed here or is settled."""
    value = _metadata(entry, FILTER).get(METADATA_ID)
    return "" if value is None else str(value.string_value)


def _usage(entry: Any) -> dict[str, int]:
    """Units per meter that Envoy has read in the response; without what is not a whole number."""
    given = {meter: value.number_value for meter, value in _metadata(entry, USAGE).items()}
    return {
        meter: int(units)
        for meter, units in given.items()
        if 0 <= units <= MAX_EXACT and units.is_integer()
    }


def report_document(decision_id: str, entry: Any) -> dict[str, Any]:
    """The report of an entry, as POST /v1/settle takes it."""
    common, response = entry.common_properties, entry.response
    fields = {one.key: one.value for one in response.response_headers}
    trailers = {one.key: one.value for one in response.response_trailers}
    status = response.response_code.value
    outcome = _outcome(common.response_flags)
    code = trailers.get("grpc-status") or fields.get("grpc-status", "")
    if outcome == "ok" and status == 200 and code.isdigit() and len(code) < 3:
        status = _STATUSES.get(int(code), status)
    document: dict[str, Any] = {
        "id": decision_id,
        "status": status if 100 <= status <= 599 else NOT_SENT,
        "outcome": outcome,
        "latency_ms": _ms(common.duration),
        "bytes_in": entry.request.request_body_bytes,
        "bytes_out": response.response_body_bytes,
        "begun": common.HasField("time_to_first_downstream_tx_byte"),
        "usage": _usage(entry),
        "headers": _printable(fields | trailers),
    }
    if outcome == "ok" and not 100 <= status <= 599:
        document["outcome"] = "client_gone"
    return document


def _outcome(flags: Any) -> str:
    for flag, outcome in _OUTCOMES:
        if getattr(flags, flag):
            return outcome
    return "ok"


def _printable(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that a report may have: Envoy passes values with control characters on."""
    return {name: value for name, value in fields.items() if value.isprintable()}


def _ms(duration: Any) -> int:
    return int(duration.seconds) * 1000 + int(duration.nanos) // 1_000_000
