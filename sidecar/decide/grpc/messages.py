"""The parts of Envoy's v3 messages that the sidecar reads or writes.

A map is a list of entries, which is the same on the wire. A test compares numbers and types with
those that Envoy publishes.
"""

from typing import Any, Final

from sidecar.decide.grpc.schema import message_classes

SCHEMA: Final = """
CheckRequest: attributes=1 Attributes
Attributes: source=1 Peer, request=4 AskedRequest
Peer: address=1 Address
Address: socket_address=1 SocketAddress
SocketAddress: address=2 string
AskedRequest: http=2 HttpRequest
HttpRequest: method=2 string, headers=3 *TextEntry, path=4 string, protocol=10 string, \
body=11 string, raw_body=12 bytes, header_map=13 HeaderMap
TextEntry: key=1 string, value=2 string
HeaderMap: headers=1 *HeaderValue
HeaderValue: key=1 string, value=2 string, raw_value=3 bytes
CheckResponse: status=1 Status, denied_response=2 DeniedResponse, ok_response=3 OkResponse, \
dynamic_metadata=4 Struct
OkResponse: headers=2 *HeaderOption, response_headers_to_add=6 *HeaderOption
DeniedResponse: status=1 HttpStatus, headers=2 *HeaderOption, body=3 string
HttpStatus: code=1 enum
HeaderOption: header=1 HeaderValue, append_action=3 enum
Struct: fields=1 *StructEntry
StructEntry: key=1 string, value=2 Value
Value: number_value=2 double, string_value=3 string
Status: code=1 int32, message=2 string, details=3 *Any
Any: type_url=1 string, value=2 bytes
Duration: seconds=1 int64, nanos=2 int32
RetryInfo: retry_delay=1 Duration
ErrorInfo: reason=1 string, domain=2 string, metadata=3 *TextEntry
QuotaFailure: violations=1 *Violation
Violation: subject=1 string, description=2 string
LogsMessage: http_logs=2 HttpLogs
HttpLogs: log_entry=1 *LogEntry
LogEntry: common_properties=1 LogCommon, request=3 LogRequest, response=4 LogResponse
LogCommon: time_to_first_downstream_tx_byte=11 Duration, response_flags=16 Flags, \
metadata=17 Metadata, duration=23 Duration, intermediate_log_entry=27 bool
Metadata: filter_metadata=1 *MetadataEntry
MetadataEntry: key=1 string, value=2 Struct
Flags: no_healthy_upstream=2 bool, upstream_request_timeout=3 bool, local_reset=4 bool, \
upstream_remote_reset=5 bool, upstream_connection_failure=6 bool, \
upstream_connection_termination=7 bool, upstream_overflow=8 bool, \
downstream_connection_termination=15 bool, stream_idle_timeout=17 bool, \
downstream_protocol_error=19 bool, upstream_max_stream_duration_reached=20 bool, \
duration_timeout=23 bool, upstream_protocol_error=24 bool, dns_resolution_failure=27 bool, \
downstream_remote_reset=28 bool
LogRequest: request_body_bytes=12 uint64
LogResponse: response_code=1 UInt32, response_body_bytes=3 uint64, response_headers=4 *TextEntry, \
response_trailers=5 *TextEntry
UInt32: value=1 uint32
"""

_CLASSES: Final = message_classes(SCHEMA)

CheckRequest: Final[Any] = _CLASSES["CheckRequest"]
CheckResponse: Final[Any] = _CLASSES["CheckResponse"]
Status: Final[Any] = _CLASSES["Status"]
RetryInfo: Final[Any] = _CLASSES["RetryInfo"]
ErrorInfo: Final[Any] = _CLASSES["ErrorInfo"]
QuotaFailure: Final[Any] = _CLASSES["QuotaFailure"]
LogsMessage: Final[Any] = _CLASSES["LogsMessage"]
