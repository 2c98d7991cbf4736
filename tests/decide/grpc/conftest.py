"""A sidecar with gRPC at its decide port."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.grpc_gateway import GrpcGateway
from tests.support.stage import Stage, StartStage, stage

__all__ = ["stage"]

StartGrpc = Callable[..., Awaitable[tuple[Stage, GrpcGateway]]]


@pytest.fixture
async def envoy(stage: StartStage, tmp_path: Path) -> AsyncIterator[StartGrpc]:
    """Start a sidecar, and connect by gRPC; `plans` replaces parts of its plan file."""
    gateways: list[GrpcGateway] = []

    async def start(
        *, plans: dict[str, str] | None = None, **settings: Any
    ) -> tuple[Stage, GrpcGateway]:
        path = tmp_path / "grpc.sock"
        here = await stage(**({"decide_grpc": f"unix:{path}"} | settings))
        text = here.plans.read_text()
        for old, new in (plans or {}).items():
            assert old in text
            text = text.replace(old, new, 1)
        if plans:
            here.plans.write_text(text)
            assert await here.app.keeper.reload(), here.app.keeper.status()
        gateway = GrpcGateway(f"unix:{path}")
        gateways.append(gateway)
        return here, gateway

    yield start
    for gateway in gateways:
        await gateway.channel.close()
