"""A gateway that speaks Envoy's gRPC to a sidecar in this process."""

from collections.abc import Sequence
from typing import Any

import grpc.aio

from sidecar.decide.grpc.messages import CheckRequest, CheckResponse, LogsMessage

CHECK = "/envoy.service.auth.v3.Authorization/Check"
LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
Metadata = Sequence[tuple[str, str]]


def question(
    method: str = "GET", path: str = "/items", key: str | None = "acme", **fields: str
) -> Any:
    """A CheckRequest with a map of fields, as Envoy sends it by default."""
    asked = CheckRequest()
    http = asked.attributes.request.http
    http.method, http.path = method, path
    shown = {":method": method, ":path": path, ":authority": "api.test"} | fields
    for name, value in shown.items():
        http.headers.add(key=name.replace("_", "-"), value=value)
    if key is not None:
        http.headers.add(key="x-api-key", value=key)
    asked.attributes.source.address.socket_address.address = "192.0.2.7"
    return asked


def values(options: Any) -> dict[str, str]:
    """The fields that an answer sets."""
    return {one.header.key: one.header.value for one in options}


def metadata_of(answer: Any) -> dict[str, str]:
    """The dynamic metadata of an answer."""
    return {field.key: field.value.string_value for field in answer.dynamic_metadata.fields}


def entry(message: Any, decision: str, status: int = 200, **flags: bool) -> Any:
    """Add an entry of the access log about a decision to a message."""
    one = message.http_logs.log_entry.add()
    namespace = one.common_properties.metadata.filter_metadata.add(
        key="envoy.filters.http.ext_authz"
    )
    namespace.value.fields.add(key="decision").value.string_value = decision
    one.common_properties.duration.nanos = 12_000_000
    one.response.response_code.value = status
    for flag in flags:
        setattr(one.common_properties.response_flags, flag, True)
    return one


class GrpcGateway:
    """A channel to a sidecar's `--decide-grpc`."""

    def __init__(self, address: str, credentials: Any = None, metadata: Metadata = ()) -> None:
        self._metadata = metadata
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials)

    async def check(self, asked: Any, *metadata: tuple[str, str]) -> Any:
        """The CheckResponse. Bytes are sent as they are."""
        call = self.call(asked, *metadata)
        return CheckResponse.FromString(await call)

    def call(self, asked: Any, *metadata: tuple[str, str]) -> Any:
        """The call of a check, which can be cancelled."""
        data = asked if isinstance(asked, bytes) else asked.SerializeToString()
        send = self.channel.unary_unary(CHECK)
        return send(data, metadata=(*self._metadata, *metadata), timeout=20)

    async def log(self, *messages: Any) -> None:
        """Send messages of the access log, and end the stream."""
        send = self.channel.stream_unary(LOGS)
        data = [m if isinstance(m, bytes) else m.SerializeToString() for m in messages]
        await send(iter(data), metadata=self._metadata, timeout=20)

    async def log_end(self, decision: str, status: int = 200, **flags: bool) -> None:
        """Report the end of one request."""
        message = LogsMessage()
        entry(message, decision, status, **flags)
        await self.log(message)
