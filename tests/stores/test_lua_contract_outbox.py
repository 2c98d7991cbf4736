"""The headers of the scripts of outboxes and plan files name the keys and arguments sent."""

from collections.abc import Awaitable
from typing import Any

import hiredis

from sidecar.stores import Connection, Outbox, PlanFiles, keys
from sidecar.stores.outbox import ACCOUNTS_AT_ONCE, GRACE_US, LEASE_MS
from sidecar.stores.plan_files import MOST_BYTES, TTL_MS
from sidecar.stores.scripts import load
from tests.support.stores.lua_headers import read_header


async def sent(
    wire: Connection, name: str, request: Awaitable[Any]
) -> tuple[list[str], dict[str, str], list[str]]:
    """KEYS, ARGV by the names of the header, and the rest of ARGV, of the script's last run."""
    runs: list[list[bytes]] = []
    execute = wire.execute

    def noting(command: bytes, *more: Any, **named: Any) -> Any:
        reader = hiredis.Reader()
        reader.feed(command)
        words = reader.gets()
        if words[:2] == [b"EVALSHA", load(name).sha]:
            runs.append(words[2:])
        return execute(command, *more, **named)

    wire.execute = noting  # type: ignore[method-assign]
    await request
    count, *rest = [word.decode() for word in runs[-1]]
    header = read_header(name)
    names, argv = rest[: int(count)], rest[int(count) :]
    assert len(names) == len(header.keys)
    return names, dict(zip(header.single, argv, strict=False)), argv[len(header.single) :]


async def test_the_outbox_sends_what_the_headers_name(wire: Connection) -> None:
    outbox = Outbox(wire, "qs", "me")
    assert await sent(wire, "outbox/take", outbox.take(7)) == (
        [keys.outbox_lease("qs"), keys.outboxes("qs")],
        {"owner": "me", "lease_ms": f"{LEASE_MS}", "start_us": "7", "most": f"{ACCOUNTS_AT_ONCE}"},
        [],
    )
    assert await sent(wire, "outbox/retire", outbox.retire("acme")) == (
        [keys.outboxes("qs")], {"account": "acme", "grace_us": f"{GRACE_US}"}, []
    )  # fmt: skip
    assert await sent(wire, "outbox/remove", outbox.remove("acme", [b"1", b"2"])) == (
        [keys.outbox("qs", "acme")], {}, ["1", "2"]
    )  # fmt: skip


async def test_plan_files_send_what_the_header_names(wire: Connection) -> None:
    renewed = PlanFiles(wire, "qs").renew("sha256:ab")
    assert await sent(wire, "plans/keep", renewed) == (
        [keys.plan_files("qs"), keys.live_plan_files("qs")],
        {
            "version": "sha256:ab", "text": "", "ttl_ms": f"{TTL_MS}",
            "most_bytes": f"{MOST_BYTES}",
        },
        [],
    )  # fmt: skip
