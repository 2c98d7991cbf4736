"""One soak from beginning to end: one session of each kind, rest, traffic with faults, rest."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from loadtests.processes import Stack
from loadtests.soak import verdict
from loadtests.soak.environment import Sample, SoakEnvironment
from loadtests.soak.faults import LONG_RUN, Faults
from loadtests.soak.judge import Evidence, judge
from loadtests.soak.observations import End, Observations
from loadtests.soak.traffic import Traffic

SAMPLE_SECONDS: Final = 0.5
SHOW_SECONDS: Final = 10.0
REST_SECONDS: Final = 30.0
CALM_SAMPLES: Final = 4  # alike, one after the other: it is at rest


class Soak:
    """Lasts `seconds`, and what is needed to begin and to end."""

    def __init__(self, stack: Stack, seconds: int) -> None:
        self._environment = SoakEnvironment(stack)
        self._seconds = seconds
        self._observations = Observations()
        self._rss: list[int] = []
        calm = asyncio.Event()
        calm.set()
        self._traffic = Traffic(self._environment.port, self._observations, calm)
        pause = min(5.0, max(0.5, seconds / 20))
        self._faults = Faults(
            self._environment, self._observations, calm, pause=pause, long=seconds >= LONG_RUN
        )

    async def run(self) -> int:
        """0 when every check holds, else 1. Raises DidNotStart."""
        self._environment.start()
        await self._traffic.each_once()
        before = await self._at_rest()
        print(f"Soaking for {self._seconds} s; at rest: {shown(before)}", flush=True)
        self._traffic.start()
        self._faults.start()
        await self._watch()
        await self._faults.stop()
        await self._traffic.stop()
        after = await self._at_rest(before)
        code = await self._environment.stop_sidecar()
        faults = self._faults
        seen = Evidence(self._seconds, self._rss, before, after, code, faults.kills, faults.names)
        return judge(self._environment, self._observations, seen)

    async def _watch(self) -> None:
        """Watch the sidecar until the time is over, and say so now and then."""
        started = time.monotonic()
        told = started
        while (now := time.monotonic()) < started + self._seconds:
            sample = await self._environment.sample()
            self._rss.append(sample.rss)
            if now >= told + SHOW_SECONDS:
                told = now
                self._tell(now - started, sample)
            await asyncio.sleep(SAMPLE_SECONDS)

    def _tell(self, seconds: float, sample: Sample) -> None:
        observations = self._observations
        ends = ", ".join(f"{observations.counts[end]:,} {end}" for end in End)
        faults = sum(observations.counts[name] for name in self._faults.names)
        violations = sum(observations.violations.values())
        print(
            f"{seconds:4.0f} s: {observations.calls:,} calls ({ends}), {faults} faults,"
            f" {violations} violations; {shown(sample)}",
            flush=True,
        )

    async def _at_rest(self, wanted: Sample | None = None) -> Sample:
        """The sidecar once nothing moves any more and, if told so, nothing is left; in any case
        as it stands after a bounded time."""
        alike = 0
        sample = await self._environment.sample()
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                while alike < CALM_SAMPLES or (wanted and verdict.left_over(wanted, sample)):
                    await asyncio.sleep(SAMPLE_SECONDS)
                    last, sample = sample, await self._environment.sample()
                    alike = alike + 1 if standing(last) == standing(sample) else 0
        return sample


def standing(sample: Sample) -> tuple[int, ...]:
    """What must come back to what it was; memory moves a little, also at rest."""
    return tuple(getattr(sample, name) for name in verdict.STANDING)


def shown(sample: Sample) -> str:
    """A sample for people."""
    told = ", ".join(f"{getattr(sample, name)} {name}" for name in verdict.STANDING)
    return f"{sample.rss / verdict.MIB:.1f} MiB, {told}"
