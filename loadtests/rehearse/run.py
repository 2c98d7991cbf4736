"""Rolls each workload once under load, and judges it: no failed request, no lost event."""

import asyncio
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import redis

from loadtests.processes import free_port
from loadtests.rehearse.api import Api
from loadtests.rehearse.kubelet import RunningPod
from loadtests.rehearse.manifest import Pod
from loadtests.rehearse.service import KEY, Service

CLIENTS: Final = 12
SHOWN: Final = 5  # failures of one kind
_PLANS: Final = f"""version: 1
meters: {{requests: {{unit: request}}}}
routes: [{{id: rest, match: "/**"}}]
plans:
  all:
    features: [core]
    limits: [{{id: monthly, meter: requests, quota: 100000000/month, at: {{100%: reject}}}}]
accounts:
  - {{id: acme, plan: all, keys: [{{id: k1, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}]}}
"""


@dataclass
class Verdict:
    """What a rolling update did. `problems` is empty if it kept its promise."""

    workload: str
    replaced: int = 0
    answered: int = 0
    events: int = 0
    failed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return (
            f"{self.workload}: {self.replaced} pods replaced, {self.answered:,} requests answered, "
            f"{len(self.failed)} failed, {self.events:,} events"
        )


class Rehearsal:
    """The rolling update of one workload, in a directory of its own."""

    def __init__(
        self,
        workload: str,
        pod: Pod,
        directory: Path,
        redis_port: int,
        *,
        propagation_s: float,
        clients: int = CLIENTS,
        pause_s: float = 0.0,
    ) -> None:
        """`propagation_s`: time until clients learn that a pod has begun or ceased to be ready."""
        self.verdict = Verdict(workload)
        self._pod = pod
        self._directory = directory
        self._redis_port = redis_port
        self._service = Service(propagation_s, clients=clients, pause_s=pause_s)
        self._pods: list[RunningPod] = []
        self._upstream: int | None = None
        # An application has its API in the pod; the gateway's is elsewhere.
        self._own_api = len(pod.containers) > 1
        self._prefix = f"rehearsal-{workload}"

    async def run(self, replicas: int, requests: int, *, replaced: int | None = None) -> Verdict:
        """Replace this many pods, by default all of them, one after the other.

        Between two replacements, each pod serves `requests` more.
        """
        self._directory.mkdir()
        (self._directory / "plans.yaml").write_text(_PLANS)
        try:
            async with asyncio.TaskGroup() as group:
                api, self._upstream = Api(), None if self._own_api else free_port()
                if self._upstream is not None:
                    group.create_task(api.run(self._upstream))
                first = [self._make(number, number) for number in range(replicas)]
                await asyncio.gather(*(pod.start() for pod in first))
                self._service.start()
                try:
                    await self._roll(first, requests, replicas if replaced is None else replaced)
                finally:
                    await self._service.stop()
                left = [pod for pod in self._pods if not pod.terminating]
                await asyncio.gather(*(pod.terminate() for pod in left))
                api.ending.set()
        finally:
            for pod in self._pods:
                pod.kill()
        self._judge()
        return self.verdict

    def _make(self, number: int, volume: int) -> RunningPod:
        """A pod. A StatefulSet's one continues the spool of its number."""
        name = f"{self.verdict.workload}-{number}"
        spool = self._directory / f"spool-{volume}"
        if self._own_api:  # an emptyDir
            shutil.rmtree(spool, ignore_errors=True)
        given = {
            "SIDECAR_PLANS": str(self._directory / "plans.yaml"),
            "SIDECAR_REDIS": f"redis://127.0.0.1:{self._redis_port}/0",
            "SIDECAR_REDIS_PREFIX": self._prefix,
            "SIDECAR_REDIS_TIMEOUT_MS": "2000",
            "SIDECAR_SPOOL": str(spool),
        }
        pod = RunningPod(name, self._pod, self._directory / name, given, self._upstream)
        self._pods.append(pod)
        self._service.add(pod)
        return pod

    async def _roll(self, old: list[RunningPod], requests: int, replaced: int) -> None:
        serving = list(old)
        for number, pod in enumerate(old[:replaced]):
            for each in serving:
                await self._service.carries(each, requests)
            new_number = len(self._pods)
            if self._pod.surge:
                new = self._make(new_number, new_number)
                await new.start()
                await asyncio.sleep(self._pod.min_ready_s)
                await self._service.carries(new, 1)  # the other pods know it
                await pod.terminate()
            else:
                await pod.terminate()
                new = self._make(new_number, number)
                await new.start()
                await asyncio.sleep(self._pod.min_ready_s)
            serving = [each for each in serving if each is not pod] + [new]
            self.verdict.replaced += 1
        await self._service.carries(serving[-1], requests)

    def _judge(self) -> None:
        verdict, service = self.verdict, self._service
        verdict.answered, verdict.failed = len(service.answered), service.failed
        verdict.problems += [problem for pod in self._pods for problem in pod.problems]
        if service.failed:
            verdict.problems.append(
                f"{len(service.failed)} requests failed: {_few(service.failed)}"
            )
        client = redis.Redis(port=self._redis_port)
        key = f"{self._prefix}:events"
        entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(key)  # type: ignore[assignment]
        client.close()
        recorded = [json.loads(fields[b"event"]) for _, fields in entries]
        events = Counter(one["id"] for one in recorded if one["type"] == "api.request.v1")
        verdict.events = sum(events.values())
        if lost := set(service.answered) - set(events):
            verdict.problems.append(f"{len(lost)} answered requests have no event in the sink")
        if twice := [key for key, count in events.items() if count > 1]:
            verdict.problems.append(f"{len(twice)} events are in the sink twice")


def _few(texts: list[str]) -> str:
    counts = Counter(text.partition(": ")[2] for text in texts).most_common(SHOWN)
    return ", ".join(f"{count} × {text}" for text, count in counts)
