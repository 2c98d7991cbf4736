"""Ends of tunnels: half-closes are passed on, and the sidecar says why it ends a WebSocket."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from sidecar.proxy.websocket_frames import (
    GOING_AWAY,
    MAX_FRAMES,
    POLICY_VIOLATION,
    FrameBoundary,
    close_frame,
)
from tests.support.http.raw_ends import End, Ends, calls, empty
from tests.support.stage import Stage, StartStage, status

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nConnection: Upgrade\r\n"
    b"Upgrade: %b\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
TEXT = Frame(Opcode.TEXT, b"hello")
TO_CLIENT, TO_API = TEXT.serialize(mask=False), TEXT.serialize(mask=True)
CLOSE_1001 = b"\x88\x02" + (1001).to_bytes(2, "big")


async def tunnel(here: Stage, ends: Ends, protocol: bytes = b"websocket") -> tuple[End, End]:
    """Both ends of an open tunnel."""
    client = await ends.client(here)
    await client.send(UPGRADE % protocol)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(SWITCHED % protocol)
    assert status(await client.head()) == 101
    return client, upstream


async def test_tunnel_client_half_closes_and_gets_late_bytes(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url)
    client, upstream = await tunnel(here, ends)
    await client.send(b"q")
    client.half_close()
    assert await upstream.rest() == b"q"  # and the end
    await upstream.send(b"LATE")
    await client.get(b"LATE")
    upstream.close()
    assert await client.rest() == b""
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (101, "ok")
    assert (event["bytes_in"], event["bytes_out"]) == (1, 4)


async def test_tunnel_api_half_closes_and_gets_late_bytes(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url)
    client, upstream = await tunnel(here, ends)
    await upstream.send(b"LAST")
    upstream.half_close()
    assert await client.rest() == b"LAST"
    await client.send(b"AFTER")
    await upstream.get(b"AFTER")
    client.close()
    assert await upstream.rest() == b""
    await empty(here)
    (event,) = await calls(here)
    assert (event["bytes_in"], event["bytes_out"]) == (5, 4)


@pytest.mark.parametrize("side", ["client", "api"])
async def test_I9_a_half_closed_tunnel_is_idle_for_a_short_time(
    stage: StartStage, ends: Ends, side: str
) -> None:
    here = await stage(upstream=ends.url, body_timeout_s="0.2", tunnel_idle_timeout_s="600")
    client, upstream = await tunnel(here, ends)
    first, second = (client, upstream) if side == "client" else (upstream, client)
    first.half_close()
    assert await second.rest() == b""
    await first.rest()
    await empty(here)


@pytest.mark.parametrize("lost", ["client", "api"])
async def test_a_lost_side_ends_the_tunnel(stage: StartStage, ends: Ends, lost: str) -> None:
    here = await stage(upstream=ends.url)
    client, upstream = await tunnel(here, ends)
    gone, other = (client, upstream) if lost == "client" else (upstream, client)
    gone.reset()
    await other.rest()
    await empty(here)


async def test_websocket_cut_both_sides_get_a_close_frame(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, tunnel_idle_timeout_s="0.3")
    client, upstream = await tunnel(here, ends)
    await upstream.send(TO_CLIENT)
    await client.get(TO_CLIENT)
    await client.send(TO_API)
    await upstream.get(TO_API)
    assert await client.rest() == CLOSE_1001
    protocol = Protocol(SERVER)
    protocol.receive_data(await upstream.rest())
    (frame,) = protocol.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, Close.parse(frame.data).code) == (Opcode.CLOSE, GOING_AWAY)
    client.close()
    upstream.close()
    await empty(here)
    (event,) = await calls(here)
    assert event["bytes_out"] == len(TO_CLIENT)  # not what the sidecar sends


@pytest.mark.parametrize(
    ("begun", "protocol"),
    [
        pytest.param(TO_CLIENT[:4], b"websocket", id="within a frame"),
        pytest.param(TO_CLIENT[:1], b"websocket", id="within a header"),
        pytest.param(CLOSE_1001, b"websocket", id="after a Close frame"),
        pytest.param(TO_CLIENT, b"other", id="not a WebSocket"),
    ],
)
async def test_a_close_frame_is_sent_between_frames_only(
    stage: StartStage, ends: Ends, begun: bytes, protocol: bytes
) -> None:
    here = await stage(upstream=ends.url, tunnel_idle_timeout_s="0.3", upgrades="websocket,other")
    client, upstream = await tunnel(here, ends, protocol)
    await upstream.send(begun)
    assert await client.rest() == begun
    upstream.close()
    client.close()
    await empty(here)


async def test_a_client_that_goes_on_sending_gets_its_close_frame(
    stage: StartStage, ends: Ends
) -> None:
    """A reset would take the frame away, so the sidecar reads on for a moment."""
    here = await stage(upstream=ends.url, tunnel_lifetime_s="0.3")
    client, upstream = await tunnel(here, ends)
    ended = asyncio.ensure_future(client.rest())
    while not ended.done():
        await client.send(TO_API)
        await asyncio.sleep(0)
    assert ended.result() == CLOSE_1001
    await client.send(TO_API)
    client.close()
    upstream.close()
    await empty(here)


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.CONT]),
        st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000]),
    ),
    max_size=6,
)


@given(FRAMES, st.booleans(), st.lists(st.integers(1, 80_000), max_size=40))
def test_frame_boundaries_are_found_whatever_the_reads(
    frames: list[tuple[Opcode, int]], masked: bool, cuts: list[int]
) -> None:
    boundary, stream, ends = FrameBoundary(), b"", {0}
    for opcode, size in frames:
        payload = bytes(min(size, 125) if opcode is Opcode.PING else size)
        stream += Frame(opcode, payload).serialize(mask=masked)
        ends.add(len(stream))
    at = 0
    for cut in [*cuts, *([1] * 20), len(stream)]:
        boundary.feed(stream[at : at + cut])
        at = min(len(stream), at + cut)
        assert boundary.between_frames == (at in ends)


def test_a_flood_of_tiny_frames_is_not_followed() -> None:
    boundary = FrameBoundary()
    boundary.feed(b"\x82\x00" * (MAX_FRAMES - 1))
    assert boundary.between_frames
    boundary.feed(b"\x82\x00" * MAX_FRAMES)
    assert not boundary.between_frames
    boundary.feed(b"\x82\x00")
    assert not boundary.between_frames


@pytest.mark.parametrize("masked", [False, True])
def test_a_close_frame_is_valid(masked: bool) -> None:
    protocol = Protocol(SERVER if masked else CLIENT)
    protocol.receive_data(close_frame(POLICY_VIOLATION, b"why", masked=masked))
    (frame,) = protocol.events_received()
    assert isinstance(frame, Frame)
    assert Close.parse(frame.data) == Close(1008, "why")
