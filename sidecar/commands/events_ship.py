"""events ship: what a sidecar that will not start again has left: its events and its journal."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sidecar.commands.options import CONFIG, REDIS, REDIS_PREFIX, SINKS, SPOOL
from sidecar.commands.output import echo
from sidecar.core.text import amount
from sidecar.errors import SettingsError, StoreUnavailable

if TYPE_CHECKING:
    from sidecar.settings import Settings

REDIS_TIMEOUT_S: Final = 5.0


def ship(
    sinks: SINKS = None,
    spool: SPOOL = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s", min=0.1, max=86_400, metavar="SECONDS", help="Longest time per spool."
        ),
    ] = 60.0,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Ship the events of a spool to the sinks, and exit.

    For the volume of a pod that is gone. Delivers what the sinks do not have yet, from the
    spools of all workers, and keeps the spool. Then charges in Redis the requests that the pod
    allowed without it (its journal). Exit code 0: every sink has every event, and the journal is
    charged; 1: something is left, 2: the spool is in use by a running sidecar.

    \b
    Examples:
      sidecar events ship --spool /mnt/old-pod/spool --sinks file:/var/log/usage.jsonl
      sidecar events ship --spool /mnt/old-pod/spool --sinks redis --redis redis://redis:6379/0
    """
    from sidecar.commands.events import spools_in
    from sidecar.logs import configure
    from sidecar.settings import load_subset

    given = {
        "config": config,
        "spool": spool,
        "sinks": sinks,
        "redis": redis,
        "redis_prefix": redis_prefix,
    }
    settings = load_subset(*given, **given)
    configure("warning", "console")
    if not settings.sinks:
        raise SettingsError("--sinks: no value; name the sinks of serve --sinks (SIDECAR_SINKS)")
    return asyncio.run(_ship(settings, spools_in(settings.spool), timeout_s))


async def _ship(settings: "Settings", spools: Sequence[Path], timeout_s: float) -> int:
    left = 0
    for path in spools:
        shipped, missing = await _ship_one(settings, path, timeout_s)
        left += missing
        rest = f"; {amount(missing, 'event')} left: see the warnings above" if missing else ""
        echo(f"{path}: {amount(shipped, 'event')} shipped{rest}", err=True)
    left += await _charge_journal(settings, timeout_s)
    return 1 if left else 0


async def _charge_journal(settings: "Settings", timeout_s: float) -> int:
    """Charge the requests in the spool's journal. Returns how many are left."""
    from sidecar.files import Files
    from sidecar.serve.parts import JOURNAL
    from sidecar.stores import connect
    from sidecar.stores.commands import Commands
    from sidecar.stores.connection.refusals import for_command
    from sidecar.stores.local.abandoned_journals import AbandonedJournals

    directory, prefix = settings.spool / JOURNAL, settings.redis_prefix
    wire = connect(settings.redis.get_secret_value(), timeout_s=REDIS_TIMEOUT_S, quiet=True)
    journals = AbandonedJournals(directory, wire, Commands(prefix), prefix, Files())
    try:
        if directory.is_dir():
            await journals.find()
        requests = journals.uncharged
        if not requests:
            return 0
        await wire.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await journals.charge()
        left = journals.uncharged
        echo(f"{directory}: {amount(requests - left, 'request')} charged", err=True)
        if left:
            why = wire.last_error or f"{settings.redis_label} does not answer in time"
            raise StoreUnavailable(for_command(why, f", and {amount(left, 'request')} are left"))
        return left
    finally:
        journals.close()
        await wire.stop()


async def _ship_one(settings: "Settings", path: Path, timeout_s: float) -> tuple[int, int]:
    """Numbers of shipped events and of those that are left. Raises SpoolError."""
    from sidecar.metering.shipper import Shipper
    from sidecar.metering.spool import Spool
    from sidecar.serve.parts import sinks_of

    spool = Spool(path, max_bytes=settings.spool_max_bytes, source=settings.source)
    spool.open()
    shipper = Shipper(spool, sinks_of(settings, settings.spool))
    try:
        shipper.start()
        before = max(shipper.lag.values())
        await shipper.drain(timeout_s)
        left = max(shipper.lag.values())
    finally:
        await shipper.close()
        await spool.close()
    return before - left, left
