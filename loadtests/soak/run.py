"""One soak from beginning to end: each session once, rest, traffic with faults, rest."""

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
CALM_SAMPLES: Final = 4  # alike in a row, before the sidecar is at rest


class Soak:
    """A soak with traffic for `seconds`."""

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
        """Run the soak. Returns 0 if every check holds, else 1. Raises DidNotStart."""
        self._environment.start()
        await self._traffic.each_once()
        before = await self._at_rest()
        print(f"Soaking for {self._seconds} s; at rest: {sample_text(before)}", flush=True)
        self._traffic.start()
        self._faults.start()
        await self._sample_until_end()
        await self._faults.stop()
        await self._traffic.stop()
        after = await self._at_rest(before)
        code = await self._environment.stop_sidecar()
        faults = self._faults
        evidence = Evidence(
            self._seconds, self._rss, before, after, code, faults.closed_connections, faults.names
        )
        return judge(self._environment, self._observations, evidence)

    async def _sample_until_end(self) -> None:
        """Sample the sidecar until the time is over, and print progress."""
        started = time.monotonic()
        printed_at = started
        while (now := time.monotonic()) < started + self._seconds:
            sample = await self._environment.sample()
            self._rss.append(sample.rss)
            if now >= printed_at + SHOW_SECONDS:
                printed_at = now
                self._print_progress(now - started, sample)
            await asyncio.sleep(SAMPLE_SECONDS)

    def _print_progress(self, seconds: float, sample: Sample) -> None:
        observations = self._observations
        ends = ", ".join(f"{observations.counts[end]:,} {end}" for end in End)
        faults = sum(observations.counts[name] for name in self._faults.names)
        violations = sum(observations.violations.values())
        print(
            f"{seconds:4.0f} s: {observations.requests:,} requests ({ends}), {faults} faults,"
            f" {violations} violations; {sample_text(sample)}",
            flush=True,
        )

    async def _at_rest(self, wanted: Sample | None = None) -> Sample:
        """A sample of the sidecar at rest, after at most `REST_SECONDS`.

        With `wanted`, at rest also means that nothing more is left than then.
        """
        alike = 0
        sample = await self._environment.sample()
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                while alike < CALM_SAMPLES or (wanted and verdict.left_over(wanted, sample)):
                    await asyncio.sleep(SAMPLE_SECONDS)
                    last, sample = sample, await self._environment.sample()
                    alike = alike + 1 if resting_values(last) == resting_values(sample) else 0
        return sample


def resting_values(sample: Sample) -> tuple[int, ...]:
    """The values that must return to their start; memory also varies at rest."""
    return tuple(getattr(sample, name) for name in verdict.RESTING)


def sample_text(sample: Sample) -> str:
    """A sample as text."""
    printed_at = ", ".join(f"{getattr(sample, name)} {name}" for name in verdict.RESTING)
    return f"{sample.rss / verdict.MIB:.1f} MiB, {printed_at}"
