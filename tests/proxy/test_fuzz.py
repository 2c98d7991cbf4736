"""Mutated requests against the sidecar: nothing hangs, nothing leaks, nothing splits.

`FUZZ_CASES` and `FUZZ_SEED` choose how many and which. A failure prints its pieces; they are
what `mutations.pieces(seed, number)` returns.
"""

import os

import pytest

from tests.support.http.mutations import HIDDEN, pieces
from tests.support.http.strict_http import (
    Incomplete,
    Message,
    NotStrict,
    take_request,
    take_response,
)
from tests.support.proxy_stage import Client, House, client

CASES = int(os.environ.get("FUZZ_CASES", "400"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ENOUGH = 10  # failures after which a run has told what it can
MARKER = b"GET /marker HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
Sent = tuple[bytes, bytes, bytes]


def strictly(data: bytes) -> list[Message]:
    """The requests that a strict parser finds before it stops: at nonsense, at the end, at the
    last request of the connection. Empty lines before one are ignored (RFC 9112, section 2.2)."""
    found: list[Message] = []
    while data := _without_empty_lines(data):
        try:
            message = take_request(data)
        except (Incomplete, NotStrict):
            break
        found.append(message)
        if _is_last(message):
            break
        data = data[len(message.raw) :]
    return found


def _without_empty_lines(data: bytes) -> bytes:
    """A single LF may end an empty line too (section 2.2); nothing of it is forwarded."""
    while data.startswith((b"\r\n", b"\n")):
        data = data[2:] if data.startswith(b"\r\n") else data[1:]
    return data


def _is_last(message: Message) -> bool:
    """Section 9.3: whether the connection ends with this request's answer."""
    options = {o.strip().lower() for v in message.values("connection") for o in v.split(b",")}
    old = message.start[2] == b"HTTP/1.0"
    return b"close" in options or (old and b"keep-alive" not in options)


def _key(message: Message) -> Sent:
    return message.method, message.target, message.body


def overtake(house: House) -> None:
    """Return when a request that the sidecar has already read has gone as far as it will.

    Reservations share one pipelined connection to Redis, so this one comes after it.
    """
    with client(house) as other:
        other.send(MARKER)
        assert other.response() is not None, "another client was not answered"
    house.settle()


def answers(house: House, connection: Client, allowed: list[Message]) -> list[int]:
    """Read an answer per allowed request, say that no more will come, and read to the end."""
    statuses: list[int] = []
    for request in allowed:
        response = connection.response(request.method)
        if response is None:
            break
        statuses.append(response.status)
        if response.values("connection") == [b"close"]:
            break
    overtake(house)  # before the half-close, which ends what should not have been begun
    connection.half_close()
    while (extra := connection.response()) is not None:
        statuses.append(extra.status)
    if connection.received:
        # The refusal of what is no request; it may have begun with HEAD.
        refusal = take_response(connection.received, b"HEAD", ended=True)
        assert refusal.status >= 400, f"not a response: {connection.received[:200]!r}"
        assert refusal.raw == connection.received, f"too much: {connection.received[:400]!r}"
        statuses.append(refusal.status)
    return statuses


def complaint(house: House, sent: list[bytes]) -> str | None:
    """Play one case; what is wrong with what happened, if anything."""
    house.recorder.forget()
    allowed = strictly(b"".join(sent))
    with client(house) as connection:
        connection.send(*sent)
        try:
            statuses = answers(house, connection, allowed)
        except (AssertionError, Incomplete, NotStrict) as error:
            return (
                f"the client saw {type(error).__name__} {error}; got {connection.received[:300]!r}"
            )
    house.wait_empty()
    house.settle()
    if house.recorder.violations:
        return f"the upstream got {house.recorder.violations[0]}"
    requests = [message for _, message in house.recorder.requests]
    forwarded = [_key(message) for message in requests if message.target != b"/marker"]
    left = iter([_key(message) for message in allowed])
    if not all(message in left for message in forwarded):
        return f"forwarded {forwarded}, sent {[_key(message) for message in allowed]}"
    if len(statuses) < len(allowed) and (not statuses or statuses[-1] < 400):
        return f"{len(allowed)} good requests, answered {statuses}"
    if statuses.count(200) != len(forwarded):
        return f"{len(forwarded)} requests forwarded, answered {statuses}"
    return None


def test_I6_mutated_requests_neither_hang_nor_leak_nor_split(house: House) -> None:
    failures = []
    for number in range(CASES):
        sent = pieces(SEED, number)
        found = complaint(house, sent)
        if found is not None:
            failures.append(f"pieces({SEED}, {number}): {found}\n    {sent!r}")
            if len(failures) == ENOUGH:
                break
    assert not failures, "\n".join(failures)
    assert house.app.data_port.connections == 0


# What the generator found once, kept whatever the seed.
FOUND = {
    "a body after an upgrade": b"POST /f HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nContent-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN),
    "chunks after an upgrade": b"POST /f HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\n"
    b"Upgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a refused HEAD": b"HEAD /f HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a length as a trailer": b"POST /f HTTP/1.1\r\nHost: api.test\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("raw", FOUND.values(), ids=FOUND)
def test_I6_what_the_generator_found_stays_fixed(house: House, raw: bytes) -> None:
    assert complaint(house, [raw]) is None


def test_the_generator_is_seeded_and_makes_both_good_and_bad_requests() -> None:
    sent = [pieces(SEED, number) for number in range(400)]
    assert sent == [pieces(SEED, number) for number in range(400)]
    whole = [len(strictly(b"".join(case))) for case in sent]
    assert whole.count(0) > 40
    assert sum(count > 0 for count in whole) > 40
    assert any(HIDDEN in b"".join(case) for case in sent)
