"""Runs a script that is not per request: by its digest, and with its text when Redis lacks it."""

from typing import Any

from sidecar.errors import StoreUnavailable
from sidecar.stores.scripts import load
from sidecar.stores.slots import slot_of
from sidecar.stores.topology import Connection
from sidecar.stores.wire import ReplyError, encode

Part = bytes | str | int


async def run(wire: Connection, name: str, keys: tuple[str, ...], *arguments: Part) -> list[Any]:
    """The script's reply. Raises StoreUnavailable, also for what is no answer of a script."""
    script, slot = load(name), slot_of(keys[0])
    command = encode(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
    reply: Any = await wire.execute(command, None, slot)
    if isinstance(reply, ReplyError) and reply.text.startswith("NOSCRIPT"):
        await wire.execute(encode(b"SCRIPT", b"LOAD", script.text), None, slot)
        reply = await wire.execute(command, None, slot)
    if isinstance(reply, ReplyError):
        raise StoreUnavailable(f"Redis refused {name}: {reply.text}")
    if not isinstance(reply, list) or len(reply) < 2:
        raise StoreUnavailable(f"Redis did not answer {name} as it should.")
    return reply
