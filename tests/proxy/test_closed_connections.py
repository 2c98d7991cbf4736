"""A closed connection is freed at once, without the garbage collector, which runs rarely.

With many short connections, hundreds of megabytes would otherwise wait for the collector.
"""

import gc
from collections.abc import Callable, Iterator

import pytest

from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.parser import RequestParser
from sidecar.proxy.upstream.connection import UpstreamConnection
from tests.support.proxy_stage import Client, SidecarThread, client, running

TIMES = 20
GET = b"GET /items HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-A\r\n"


@pytest.fixture(scope="module")
def sidecar(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarThread]:
    directory = tmp_path_factory.mktemp("sidecar")
    with running(lambda: SidecarThread(directory, _valkey, ("/**",))) as sidecar:
        yield sidecar


def leaves_after_an_answer(here: Client) -> None:
    here.send(GET + b"\r\n")
    assert here.response() is not None
    here.close()


def is_told_to_leave(here: Client) -> None:
    here.send(GET + b"Connection: close\r\n\r\n")
    assert b"200 OK" in here.to_the_end()


def leaves_in_a_head(here: Client) -> None:
    here.send(GET)
    here.close()


def leaves_in_a_body(here: Client) -> None:
    here.send(b"POST" + GET[3:] + b"Content-Length: 100\r\n\r\nbegun")
    here.close()


def sends_an_invalid_head(here: Client) -> None:
    here.send(GET + b"no colon\r\n\r\n")
    assert b" 400 " in here.to_the_end()


def sends_tiny_chunks(here: Client) -> None:
    """Not all, as their connection may be reset before the response is read."""
    here.send(b"POST" + GET[3:] + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 12_000)
    here.close()


def alive() -> int:
    kinds = (ClientConnection, RequestParser, UpstreamConnection)
    return sum(isinstance(one, kinds) for one in gc.get_objects())


@pytest.mark.parametrize(
    "visit",
    [
        leaves_after_an_answer,
        is_told_to_leave,
        leaves_in_a_head,
        leaves_in_a_body,
        sends_an_invalid_head,
        sends_tiny_chunks,
    ],
)
def test_I9_a_closed_connection_is_freed_without_the_garbage_collector(
    sidecar: SidecarThread, visit: Callable[[Client], None]
) -> None:
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(TIMES):
            with client(sidecar) as here:
                visit(here)
        sidecar.wait_empty()
        sidecar.settle()
        assert alive() - before < TIMES / 2  # idle connections to the API stay open
    finally:
        gc.enable()
