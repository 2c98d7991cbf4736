"""The relay of the ASGI applications, by httpx."""

from collections.abc import AsyncIterator, Iterable

import httpx

from tests.plugins.apps.common import API, BREAKS, HELD, RAISES, SampleError, kept, priced_async

CLIENT = httpx.AsyncClient(timeout=30)
Relayed = tuple[int, list[tuple[str, str]], AsyncIterator[bytes]]


async def relay(
    method: str, target: str, fields: Iterable[tuple[str, str]], body: AsyncIterator[bytes] | bytes
) -> Relayed:
    """Status, fields and body of the API's answer. `?units=N`: a cost of N tokens."""
    path, _, query = target.partition("?")
    if path == RAISES:
        raise SampleError
    if query.startswith("units="):
        await priced_async(query.removeprefix("units="))
    target = "/v1/items/stream" if path in (BREAKS, HELD) else target
    request = CLIENT.build_request(method, API + target, headers=kept(fields), content=body)
    answer = await CLIENT.send(request, stream=True)
    parts = answer.aiter_raw()
    if path == HELD:
        parts = _all([part async for part in parts])
    return answer.status_code, kept(answer.headers.items()), _relayed(path, answer, parts)


async def _all(parts: list[bytes]) -> AsyncIterator[bytes]:
    yield b"".join(parts)


async def _relayed(
    path: str, answer: httpx.Response, parts: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    try:
        async for part in parts:
            yield part
            if path == BREAKS:
                raise SampleError
    finally:
        await answer.aclose()
