"""Fixtures of this folder: sidecars, and a receiver that decodes OTLP by its published protos."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.processes import PATIENCE_S, serving
from tests.support.stage import stage

__all__ = ["serving", "stage"]
ATTRIBUTES = "attributes"


class Receiver:
    """An OTLP receiver. `spans` are all spans so far, with hex ids and attributes as a dict."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.resources: list[dict[str, Any]] = []
        self.status = 200
        self.port = 0
        self.batches = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take(self, request: web.Request) -> web.Response:
        """Take a batch, as the protocol says: a protobuf message, answered by one."""
        assert request.path == "/v1/traces"
        assert request.content_type == "application/x-protobuf"
        self.batches += 1
        if self.status != 200:
            return web.Response(status=self.status)
        message = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in message.resource_spans:
            self.resources.append(values_of(of_resource.resource.attributes))
            for scope in of_resource.scope_spans:
                self.spans += [span_of(span) for span in scope.spans]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until spans have arrived."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                await asyncio.sleep(0.01)


def values_of(attributes: Any) -> dict[str, Any]:
    rows = [MessageToDict(one) for one in attributes]
    return {row["key"]: next(iter(row["value"].values()), None) for row in rows}


def span_of(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "started": span.start_time_unix_nano,
        "ended": span.end_time_unix_nano,
        "failed": span.status.code == 2,
        ATTRIBUTES: values_of(span.attributes),
    }


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    application = web.Application()
    application.router.add_post("/{path:.*}", one.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.port = runner.addresses[0][1]
    yield one
    await runner.cleanup()
