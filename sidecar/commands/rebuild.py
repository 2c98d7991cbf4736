"""The command `sidecar rebuild`."""

import json
import time
from typing import Annotated

import typer

from sidecar.commands.options import CONFIG, PLANS, REDIS, REDIS_PREFIX
from sidecar.commands.output import echo
from sidecar.commands.reconcile_options import (
    ACCOUNT,
    EVENTS,
    FORMER_PLANS,
    JSON,
    SPOOLS,
    WAIT,
    open_inputs,
)


def rebuild(
    spool: SPOOLS = None,
    events: EVENTS = None,
    plans: PLANS = None,
    former_plans: FORMER_PLANS = None,
    account: ACCOUNT = None,
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Apply the changes, or only print them.")
    ] = False,
    lower: Annotated[
        bool, typer.Option("--lower", help="Also lower counters that exceed their events.")
    ] = False,
    wait: WAIT = 1.0,
    as_json: JSON = False,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Restore counters in Redis from the recorded events.

    Use it after Redis has lost data. It raises the counters of the current periods by the missing
    units, once; sidecars may be running. Without --apply, it changes nothing. Exit code 0: nothing
    is left to do, 1: something is left to do, 2: Redis, the plan file or the events cannot be read.

    \b
    Examples:
      sidecar rebuild --plans plans.yaml --spool /var/spool/sidecar --events usage.jsonl
      sidecar rebuild --plans plans.yaml --spool /var/spool/sidecar --events usage.jsonl --apply
    """
    from sidecar.reconcile import json_report, text_report
    from sidecar.reconcile.rebuild import rebuild as rebuild_counters

    flags = {"config": config, "plans": plans, "redis": redis, "redis_prefix": redis_prefix}
    with open_inputs(flags, spool, events, former_plans, account) as inputs:
        report = rebuild_counters(
            inputs.reconciler,
            inputs.inspector,
            apply=apply,
            lower=lower,
            wait=lambda: time.sleep(wait),
        )
        if as_json:
            document = json_report.rebuild_document(report, inputs.events, applied=apply)
            echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            for line in text_report.corrections(report, applied=apply):
                echo(line)
    left = report.busy or report.unknown or (report.corrections and not apply)
    return 1 if left else 0
