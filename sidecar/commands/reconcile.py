"""reconcile: are the counters in Redis what the recorded events come to?"""

import json
import time

import typer

from sidecar.commands.options import CONFIG, PLANS, REDIS, REDIS_PREFIX
from sidecar.commands.reconcile_options import (
    ACCOUNT,
    EVENTS,
    FORMER_PLANS,
    JSON,
    SPOOLS,
    WAIT,
    looking,
)


def reconcile(
    spool: SPOOLS = None,
    events: EVENTS = None,
    plans: PLANS = None,
    former_plans: FORMER_PLANS = None,
    account: ACCOUNT = None,
    wait: WAIT = 1.0,
    as_json: JSON = False,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Compare the counters in Redis with the recorded events.

    Explains each difference. Give it every spool and every file of the sinks: copies of an event
    count once. Changes nothing; sidecars may be running. Exit code 0: all differences are
    explained, 1: some are not, 2: Redis, the plan file or the events cannot be read.

    \b
    Examples:
      sidecar reconcile --plans plans.yaml --spool /var/spool/sidecar --events usage.jsonl
      sidecar reconcile --plans plans.yaml --spool /spools/a --spool /spools/b --account acme
    """
    from sidecar.reconcile import json_report, text_report
    from sidecar.reconcile.compare import reconcile as look

    given = {"config": config, "plans": plans, "redis": redis, "redis_prefix": redis_prefix}
    with looking(given, spool, events, former_plans, account) as inside:
        looks = look(inside.looker, lambda: time.sleep(wait))
        if as_json:
            told = json_report.reconciled(looks, inside.looker, inside.found, inside.coverage)
            typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            for line in text_report.differences(looks):
                typer.echo(line)
            for line in text_report.summary(looks, inside.looker, inside.coverage):
                typer.echo(line)
    return 1 if any(one.left for one in looks.values()) else 0
