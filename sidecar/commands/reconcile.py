"""The command `sidecar reconcile`."""

import json
import time

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
    from sidecar.reconcile.compare import reconcile as compare

    flags = {"config": config, "plans": plans, "redis": redis, "redis_prefix": redis_prefix}
    with open_inputs(flags, spool, events, former_plans, account) as inputs:
        reconciler, coverage = inputs.reconciler, inputs.coverage
        comparisons = compare(reconciler, lambda: time.sleep(wait))
        if as_json:
            document = json_report.reconcile_document(
                comparisons, reconciler, inputs.events, coverage
            )
            echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            for line in text_report.differences(comparisons):
                echo(line)
            for line in text_report.summary(comparisons, reconciler, coverage):
                echo(line)
    return 1 if any(one.unexplained for one in comparisons.values()) else 0
