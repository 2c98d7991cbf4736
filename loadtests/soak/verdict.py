"""What a soak promises, as pure functions: each returns what is wrong, in sentences."""

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
SAMPLES: Final = 10  # at memory, at least
SHOWN: Final = 5  # examples of one kind
STANDING: Final = ("files", "tasks", "clients", "upstreams")
# Lines that tell of a fault that was made user.
EXPECTED_ERRORS: Final = frozenset({"plan_file_rejected", "upstream_unreachable"})
FORWARDED: Final = frozenset({End.ANSWERED, End.CUT, End.FAILED})
WELL: Final = "ok"  # the reason in an event of a call that was answered whole
CLIENT_BROKE_OFF: Final = "client_gone"  # or sent a body that turned out malformed on its way
SWITCHED: Final = 101  # a tunnel, whose end is no part of the answer


def fifths(rss: Sequence[int]) -> tuple[float, float]:
    """Median memory of the second and of the last fifth of a run, in bytes. The first fifth
    is warm-up: buffers, caches and the allocator's arenas find their size."""
    step = max(1, len(rss) // 5)
    return median(rss[step : 2 * step]), median(rss[-step:])


def grown(rss: Sequence[int], seconds: float) -> list[str]:
    """Flat is: the last fifth of a run has at most 3 MiB above the second, which is what the
    allocator moves; a leak of twenty bytes a call shows within ten minutes. In less than a
    minute the warm-up is not over after a fifth, so there it is 4 MiB."""
    if len(rss) < SAMPLES:
        return ["memory was looked at too seldom to tell"]
    early, late = fifths(rss)
    if late - early <= (FLAT if seconds >= SHORT_SECONDS else FLAT_IN_A_SHORT_RUN):
        return []
    return [f"it grew from {early / MIB:.1f} to {late / MIB:.1f} MiB"]


def left_over(before: Sample, after: Sample) -> list[str]:
    """At rest nothing may be there that was not there at the start."""
    return [
        f"{name}: {getattr(after, name)} at rest, {getattr(before, name)} at the start"
        for name in STANDING
        if getattr(after, name) > getattr(before, name)
    ]


def miscounted(
    counters: Mapping[Quota, Counter], sums: Mapping[Quota, Sum], lost: Mapping[str, int]
) -> list[str]:
    """Counters that are not what the events say.

    A counter may lie between certain and doubtful usage. `lost`: units by account that may
    have been charged without an event, since a connection to the store was lost.
    """
    wrong = []
    for quota, counter in counters.items():
        low = sums[quota].certain
        high = low + sums[quota].doubtful + lost.get(quota.account, 0)
        if not low <= counter.used <= high:
            expected = f"{low}" if low == high else f"{low} to {high}"
            wrong.append(f"{quota}: the counter says {counter.used}, the events {expected}")
    return wrong


def misrecorded(seen: Mapping[str, Result], resets: int, events: Iterable[Event]) -> list[str]:
    """Answers without an event or with one that tells something else, and events of refusals.

    `resets`: connections that were reset before an answer; the API must have failed as often.
    """
    missing = {id_ for id_, one in seen.items() if one.end in FORWARDED}
    wrong: dict[str, list[str]] = {}
    failed = 0
    for event in events:
        if event.type != REQUEST:
            continue
        missing.discard(event.id)
        answer = seen.get(event.id)
        if answer is None:
            failed += event.reason.startswith("upstream_")
        elif problem := _contradiction(answer, event):
            wrong.setdefault(problem, []).append(event.id)
    if missing:
        wrong["calls were answered and have no event"] = sorted(missing)
    told = [f"{len(ids)} {problem}, like {ids[0]}" for problem, ids in wrong.items()]
    if resets > failed:
        told.append(f"{resets} connections were reset, and {failed} events say why")
    return told


def _contradiction(seen: Result, event: Event) -> str:
    """How an event and what the client saw differ; "" when they do not."""
    end, reason = seen.end, event.reason
    if end is End.REFUSED and reason != CLIENT_BROKE_OFF:
        return f"refused calls ({seen.status}) have an event"
    if end not in FORWARDED:
        return ""
    if event.status != seen.status:
        return f"{end} calls ({seen.status}) have an event with status {event.status}"
    if seen.status != SWITCHED and (reason == WELL) != (end is End.ANSWERED):
        return f"{end} calls have an event with reason {reason}"
    return ""


def not_whole(events: Iterable[Event], taken: int) -> list[str]:
    """Events that never came out of the spool, which took `taken`; ids that come twice."""
    seqs, ids = [], Tally[str]()
    for event in events:
        seqs.append(event.seq)
        ids[event.id] += event.type == REQUEST
    wrong = []
    if sorted(seqs) != list(range(1, taken + 1)):
        wrong.append(f"{len(seqs)} events were shipped, {taken} were taken by the spool")
    twice = [id_ for id_, times in ids.items() if times > 1]
    if twice:
        wrong.append(f"{len(twice)} calls have more than one event, like {twice[0]}")
    return wrong


def said_wrong(lines: Iterable[str]) -> list[str]:
    """Lines of the log that tell of a fault of our own: tracebacks, whatever is not JSON, and
    errors that nothing user can have caused."""
    wrong = Tally[str]()
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            wrong[f"no JSON: {line.strip()[:200]}"] += 1
            continue
        unexpected = entry.get("level") == "error" and entry.get("event") not in EXPECTED_ERRORS
        if unexpected or "exception" in entry:
            wrong[f"{entry.get('level')}: {line.strip()[:200]}"] += 1
    return [f"{times} × {line}" for line, times in wrong.most_common(SHOWN)]


def unproved(counts: Mapping[str, int], wanted: Iterable[str]) -> list[str]:
    """What never came to pass, so that the run says nothing about it."""
    return [f"never: {name}" for name in wanted if not counts.get(name)]


def forbidden(violations: Mapping[str, int]) -> list[str]:
    """What clients saw and may not see, most frequent first."""
    ordered = sorted(violations.items(), key=lambda item: -item[1])
    return [f"{times} × {sentence}" for sentence, times in ordered]
