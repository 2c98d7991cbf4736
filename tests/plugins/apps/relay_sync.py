"""The relay of the WSGI applications, by http.client."""

import http.client
from collections.abc import Iterable, Iterator

from tests.plugins.apps.common import API, BREAKS, HELD, RAISES, SampleError, kept, priced

Relayed = tuple[int, list[tuple[str, str]], Iterator[bytes]]


def relay_sync(method: str, target: str, fields: Iterable[tuple[str, str]], body: bytes) -> Relayed:
    """Status, fields and body of the API's answer. `?units=N`: a cost of N tokens."""
    path, _, query = target.partition("?")
    if path == RAISES:
        raise SampleError
    if query.startswith("units="):
        priced(query.removeprefix("units="))
    target = "/v1/items/stream" if path in (BREAKS, HELD) else target
    connection = http.client.HTTPConnection(API.removeprefix("http://"), timeout=30)
    connection.request(method, target, body or None, dict(kept(fields)))
    answer = connection.getresponse()
    parts = _relayed(path, connection, answer)
    if path == HELD:
        parts = iter([b"".join(parts)])
    return answer.status, kept(answer.getheaders()), parts


def _relayed(
    path: str, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
) -> Iterator[bytes]:
    try:
        while part := answer.read1(65_536):
            yield part
            if path == BREAKS:
                raise SampleError
    finally:
        connection.close()
