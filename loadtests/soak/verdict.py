"""The checks of a soak, as pure functions: each returns the violations as sentences."""

import json
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from loadtests.soak.accounts import Quota
from loadtests.soak.environment import Sample
from loadtests.soak.observations import End, Result
from loadtests.soak.reconciliation import REQUEST, Counter, Event, Sum

MIB: Final = 1 << 20
FLAT: Final = 3 * MIB
FLAT_IN_A_SHORT_RUN: Final = 4 * MIB
SHORT_SECONDS: Final = 60
MIN_SAMPLES: Final = 10  # of memory, at least
SHOWN: Final = 5  # examples of one kind
RESTING: Final = ("files", "tasks", "clients", "upstreams")
# Log events of the faults that the run itself injects.
EXPECTED_ERRORS: Final = frozenset({"plan_file_rejected", "upstream_unreachable"})
FORWARDED: Final = frozenset({End.ANSWERED, End.CUT, End.FAILED})
COMPLETE: Final = "ok"  # the reason in the event of a complete answer
CLIENT_ABORTED: Final = "client_gone"  # or its body became malformed
SWITCHED: Final = 101  # a tunnel, which ends without an end of the answer


def fifths(rss: Sequence[int]) -> tuple[float, float]:
    """Median memory of the second and of the last fifth of a run, in bytes.

    The first fifth is warm-up: buffers, caches and the allocator's arenas grow to their size.
    """
    step = max(1, len(rss) // 5)
    return median(rss[step : 2 * step]), median(rss[-step:])


def grown(rss: Sequence[int], seconds: float) -> list[str]:
    """Whether memory grew, as sentences.

    The last fifth of a run may have at most 3 MiB more than the second, which is the allocator's
    noise. A leak of 20 bytes per request exceeds that within ten minutes. In less than a minute the
    warm-up takes longer than a fifth, so the bound is 4 MiB.
    """
    if len(rss) < MIN_SAMPLES:
        return ["too few samples of memory"]
    early, late = fifths(rss)
    if late - early <= (FLAT if seconds >= SHORT_SECONDS else FLAT_IN_A_SHORT_RUN):
        return []
    return [f"it grew from {early / MIB:.1f} to {late / MIB:.1f} MiB"]


def left_over(before: Sample, after: Sample) -> list[str]:
    """Resources that exist at rest but not at the start."""
    return [
        f"{name}: {getattr(after, name)} at rest, {getattr(before, name)} at the start"
        for name in RESTING
        if getattr(after, name) > getattr(before, name)
    ]


def miscounted(
    counters: Mapping[Quota, Counter], sums: Mapping[Quota, Sum], lost: Mapping[str, int]
) -> list[str]:
    """Counters that differ from the events.

    A counter may lie between certain and certain plus doubtful usage. `lost`: units by account that
    may have been charged without an event, because a connection to Redis was lost.
    """
    wrong = []
    for quota, counter in counters.items():
        low = sums[quota].certain
        high = low + sums[quota].doubtful + lost.get(quota.account, 0)
        if not low <= counter.used <= high:
            expected = f"{low}" if low == high else f"{low} to {high}"
            wrong.append(f"{quota}: the counter is {counter.used}, the events are {expected}")
    return wrong


def misrecorded(results: Mapping[str, Result], resets: int, events: Iterable[Event]) -> list[str]:
    """Answers without an event or with a wrong one, and events of refusals.

    `resets`: connections that were reset before an answer. At least as many events must say that
    the API failed.
    """
    without_event = {id_ for id_, one in results.items() if one.end in FORWARDED}
    wrong: dict[str, list[str]] = {}
    failed = 0
    for event in events:
        if event.type != REQUEST:
            continue
        without_event.discard(event.id)
        result = results.get(event.id)
        if result is None:
            failed += event.reason.startswith("upstream_")
        elif problem := _contradiction(result, event):
            wrong.setdefault(problem, []).append(event.id)
    if without_event:
        wrong["requests were answered and have no event"] = sorted(without_event)
    sentences = [f"{len(ids)} {problem}, like {ids[0]}" for problem, ids in wrong.items()]
    if resets > failed:
        sentences.append(f"{resets} connections were reset, but only {failed} events say why")
    return sentences


def _contradiction(result: Result, event: Event) -> str:
    """The difference between an event and the client's result, or ""."""
    end, reason = result.end, event.reason
    if end is End.REFUSED and reason != CLIENT_ABORTED:
        return f"refused requests ({result.status}) have an event"
    if end not in FORWARDED:
        return ""
    if event.status != result.status:
        return f"{end} requests ({result.status}) have an event with status {event.status}"
    if result.status != SWITCHED and (reason == COMPLETE) != (end is End.ANSWERED):
        return f"{end} requests have an event with reason {reason}"
    return ""


def broken_events(events: Iterable[Event], appended: int) -> list[str]:
    """Events that the spool took but did not ship, and ids that occur twice."""
    seqs, ids = [], Tally[str]()
    for event in events:
        seqs.append(event.seq)
        ids[event.id] += event.type == REQUEST
    wrong = []
    if sorted(seqs) != list(range(1, appended + 1)):
        wrong.append(f"{len(seqs)} events were shipped, {appended} were written to the spool")
    repeated = [id_ for id_, times in ids.items() if times > 1]
    if repeated:
        wrong.append(f"{len(repeated)} requests have more than one event, like {repeated[0]}")
    return wrong


def bad_log_lines(lines: Iterable[str]) -> list[str]:
    """Log lines that show a fault of the sidecar.

    These are tracebacks, lines that are not JSON, and errors that the run cannot have caused.
    """
    wrong = Tally[str]()
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            wrong[f"not JSON: {line.strip()[:200]}"] += 1
            continue
        unexpected = entry.get("level") == "error" and entry.get("event") not in EXPECTED_ERRORS
        if unexpected or "exception" in entry:
            wrong[f"{entry.get('level')}: {line.strip()[:200]}"] += 1
    return [f"{times} × {line}" for line, times in wrong.most_common(SHOWN)]


def never_counted(counts: Mapping[str, int], wanted: Iterable[str]) -> list[str]:
    """Kinds that never occurred, so that the run proves nothing about them."""
    return [f"never: {name}" for name in wanted if not counts.get(name)]


def forbidden(violations: Mapping[str, int]) -> list[str]:
    """Violations that clients observed, most frequent first."""
    ordered = sorted(violations.items(), key=lambda item: -item[1])
    return [f"{times} × {sentence}" for sentence, times in ordered]
