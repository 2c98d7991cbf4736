"""Mutated requests against the sidecar: nothing hangs, nothing leaks, nothing splits.

`FUZZ_CASES` and `FUZZ_SEED` set the number of cases and the seed. A failure prints its pieces, as
`mutations.pieces(seed, number)` returns them.
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
from tests.support.proxy_stage import Client, SidecarThread, client

CASES = int(os.environ.get("FUZZ_CASES", "400"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ENOUGH = 10  # failures after which a run stops
MARKER = b"GET /marker HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
Sent = tuple[bytes, bytes, bytes]


def strictly(data: bytes) -> list[Message]:
    """The requests that a strict parser finds before invalid bytes, the end or a last request.

    Empty lines before a request are ignored (RFC 9112, section 2.2).
    """
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
    """Strip empty lines. A single LF may end one (section 2.2); it is not forwarded."""
    while data.startswith((b"\r\n", b"\n")):
        data = data[2:] if data.startswith(b"\r\n") else data[1:]
    return data


def _is_last(message: Message) -> bool:
    """Whether the connection ends with the response to this request (section 9.3)."""
    options = {o.strip().lower() for v in message.values("connection") for o in v.split(b",")}
    old = message.start[2] == b"HTTP/1.0"
    return b"close" in options or (old and b"keep-alive" not in options)


def _key(message: Message) -> Sent:
    return message.method, message.target, message.body


def overtake(sidecar: SidecarThread) -> None:
    """Wait until the requests that the sidecar has read are admitted or refused.

    Reservations share one pipelined connection to Redis, so a later request follows them.
    """
    with client(sidecar) as other:
        other.send(MARKER)
        assert other.response() is not None, "another client was not answered"
    sidecar.settle()


def answers(sidecar: SidecarThread, connection: Client, allowed: list[Message]) -> list[int]:
    """Read one response per allowed request, half-close, and read to the end."""
    statuses: list[int] = []
    for request in allowed:
        response = connection.response(request.method)
        if response is None:
            break
        statuses.append(response.status)
        if response.values("connection") == [b"close"]:
            break
    overtake(sidecar)  # before the half-close, which ends requests that are not admitted
    connection.half_close()
    while (extra := connection.response()) is not None:
        statuses.append(extra.status)
    if connection.received:
        # The reply to an invalid request, whose method may be HEAD.
        refusal = take_response(connection.received, b"HEAD", ended=True)
        assert refusal.status >= 400, f"not a response: {connection.received[:200]!r}"
        assert refusal.raw == connection.received, f"too much: {connection.received[:400]!r}"
        statuses.append(refusal.status)
    return statuses


def fault(sidecar: SidecarThread, sent: list[bytes]) -> str | None:
    """Play one case. Returns a description of the first fault, or None."""
    sidecar.recorder.forget()
    allowed = strictly(b"".join(sent))
    with client(sidecar) as connection:
        connection.send(*sent)
        try:
            statuses = answers(sidecar, connection, allowed)
        except (AssertionError, Incomplete, NotStrict) as error:
            return (
                f"the client saw {type(error).__name__} {error}; got {connection.received[:300]!r}"
            )
    sidecar.wait_empty()
    sidecar.settle()
    if sidecar.recorder.violations:
        return f"the upstream got {sidecar.recorder.violations[0]}"
    requests = [message for _, message in sidecar.recorder.requests]
    forwarded = [_key(message) for message in requests if message.target != b"/marker"]
    left = iter([_key(message) for message in allowed])
    if not all(message in left for message in forwarded):
        return f"forwarded {forwarded}, sent {[_key(message) for message in allowed]}"
    if len(statuses) < len(allowed) and (not statuses or statuses[-1] < 400):
        return f"{len(allowed)} good requests, answered {statuses}"
    if statuses.count(200) != len(forwarded):
        return f"{len(forwarded)} requests forwarded, answered {statuses}"
    return None


def test_I6_mutated_requests_neither_hang_nor_leak_nor_split(sidecar: SidecarThread) -> None:
    failures = []
    for number in range(CASES):
        sent = pieces(SEED, number)
        found = fault(sidecar, sent)
        if found is not None:
            failures.append(f"pieces({SEED}, {number}): {found}\n    {sent!r}")
            if len(failures) == ENOUGH:
                break
    assert not failures, "\n".join(failures)
    assert sidecar.app.data_port.connections == 0


# Earlier findings of the generator, independent of the seed.
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
def test_I6_earlier_findings_of_the_generator_stay_fixed(
    sidecar: SidecarThread, raw: bytes
) -> None:
    assert fault(sidecar, [raw]) is None


def test_the_generator_is_seeded_and_makes_valid_and_invalid_requests() -> None:
    sent = [pieces(SEED, number) for number in range(400)]
    assert sent == [pieces(SEED, number) for number in range(400)]
    whole = [len(strictly(b"".join(case))) for case in sent]
    assert whole.count(0) > 40
    assert sum(count > 0 for count in whole) > 40
    assert any(HIDDEN in b"".join(case) for case in sent)
