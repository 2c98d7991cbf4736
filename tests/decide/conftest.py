"""A sidecar with a decide port on a unix socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.decide_stage import Gateway
from tests.support.stage import Stage, StartStage, stage

__all__ = ["stage"]

StartDecide = Callable[..., Awaitable[tuple[Stage, Gateway]]]


@pytest.fixture
async def decide(stage: StartStage, tmp_path: Path) -> AsyncIterator[StartDecide]:
    """Start a sidecar, and connect to its decide port; `plans` replaces parts of its plan file."""
    gateways: list[Gateway] = []

    async def start(
        *, plans: dict[str, str] | None = None, token: str = "", **settings: Any
    ) -> tuple[Stage, Gateway]:
        path = str(tmp_path / "decide.sock")
        here = await stage(decide=f"unix:{path}", **settings)
        if plans:
            text = here.plans.read_text()
            for old, new in plans.items():
                assert old in text
                text = text.replace(old, new, 1)
            here.plans.write_text(text)
            assert await here.app.keeper.reload(), here.app.keeper.status()
        gateway = Gateway(path, token)
        gateways.append(gateway)
        return here, gateway

    yield start
    for gateway in gateways:
        await gateway.close()
