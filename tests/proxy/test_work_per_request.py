"""The work of one request, counted and not timed: a regression shows on any machine.

The counts are calls of Python functions and of C functions by them, on the sidecar's thread, for
the whole life of a request with three limits and an event: keep-alive, small JSON. A change that
needs more must raise the number, so that reviewers see it.
"""

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sidecar.commands.serve import is_compiled
from sidecar.metering.spool import Spool
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.upstream.connection import UpstreamConnection
from tests.support.proxy_stage import Client, SidecarThread, client, running

PYTHON_CALLS = 111
C_CALLS = 148
REQUEST = (
    b"GET /v1/items/1 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: test/1\r\nAccept: */*\r\n"
    b"X-Api-Key: key-A\r\n\r\n"
)
LIMITS = """
      - {id: per-second, meter: requests, rate: 500000/s, burst: 1000000}
      - {id: per-key, meter: requests, rate: 400000/s, burst: 1000000, per: key}
      - {id: monthly, meter: requests, quota: 2000000000/month, at: {100%: reject}}
"""


@pytest.fixture(scope="module")
def warm(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A connection to a sidecar that has served such requests before."""
    directory = tmp_path_factory.mktemp("sidecar")
    with running(lambda: _sidecar(directory, _valkey)) as sidecar, client(sidecar) as connection:
        for _ in range(50):
            ask(connection)
        connection.sidecar = sidecar  # type: ignore[attr-defined]
        yield connection


def _sidecar(directory: Path, valkey: str) -> SidecarThread:
    sidecar = SidecarThread(directory, valkey, ("/v1/items/**", "/**"), commit_window_ms="1000")
    plans = directory / "plans" / "plans.yaml"
    head, _, rest = plans.read_text().partition("    limits: [")
    plans.write_text(f"{head}    limits:{LIMITS}{rest.partition(']')[2]}")
    return sidecar


def ask(connection: Client) -> None:
    connection.send(REQUEST)
    answer = connection.response()
    assert answer is not None
    assert answer.status == 200


async def _profile(counts: "Counter[tuple[str, str]] | None") -> None:
    def count(frame: FrameType, event: str, argument: Any) -> None:
        assert counts is not None
        if event == "call":
            counts["python", frame.f_code.co_qualname] += 1
        elif event == "c_call":
            counts["c", argument.__qualname__] += 1

    sys.setprofile(None if counts is None else count)


def profiled(warm: Client, requests: int) -> "Counter[tuple[str, str]]":
    """Calls of functions during so many requests, by kind and name."""
    sidecar: SidecarThread = warm.sidecar  # type: ignore[attr-defined]
    counts: Counter[tuple[str, str]] = Counter()
    sidecar.run(_profile(counts))
    for _ in range(requests):
        ask(warm)
    sidecar.run(_profile(None))
    return counts


def test_a_request_makes_a_limited_number_of_function_calls(warm: Client) -> None:
    """The least of a few rounds: on a busy machine, timers run more often between requests."""
    requests = 40
    rounds = [profiled(warm, requests) for _ in range(5)]
    for of, most in (("python", PYTHON_CALLS), ("c", C_CALLS)):
        sums = [sum(n for (kind, _), n in counts.items() if kind == of) for counts in rounds]
        least = min(sums)
        counts = rounds[sums.index(least)]
        report = "\n".join(
            f"{n / requests:6.2f} {kind} {name}" for (kind, name), n in counts.most_common(80)
        )
        assert least / requests <= most, report


def test_a_request_leaks_no_object(warm: Client) -> None:
    sidecar: SidecarThread = warm.sidecar  # type: ignore[attr-defined]

    def blocks(requests: int) -> int:
        for _ in range(requests):
            ask(warm)
        sidecar.run(sidecar.app.spool.flush())
        sidecar.recorder.forget()
        gc.collect()
        return sys.getallocatedblocks()

    blocks(100)
    before = blocks(0)
    assert blocks(300) - before < 300  # not one object per request


@pytest.mark.skipif(is_compiled(), reason="compiled classes have no slots")
@pytest.mark.parametrize("of_each_request", [Request, Exchange, UpstreamConnection, Spool])
def test_an_object_with_many_attributes_has_slots(of_each_request: type) -> None:
    """CPython 3.11 keeps at most 30 attributes outside of a dictionary, which is slow to fill."""
    assert of_each_request.__dictoffset__ == 0
