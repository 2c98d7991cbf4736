"""Runs a pod's containers as processes, in the order and with the probes and hooks of the kubelet.

The order is that of Kubernetes 1.29 and newer. At the start: each sidecar until its startup probe
succeeds, then the other containers. At the end, for all containers at once: the preStop hook, then
SIGTERM, for a sidecar only after all other containers have ended; SIGKILL at the end of the grace
period.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadtests.processes import DidNotStart, free_port
from loadtests.rehearse.manifest import SIDECAR, Container, Hook, Pod, Probe

_PROGRAM: Final = Path(sys.executable).parent / "sidecar"
_PROBE_TIMEOUT_S: Final = 2.0
_READY_TIMEOUT_S: Final = 60.0


class RunningPod:
    """One pod. `problems` has what a person would find in its events."""

    def __init__(
        self, name: str, pod: Pod, directory: Path, given: Mapping[str, str], upstream: int | None
    ) -> None:
        """`given`: variables that replace those of the manifest. `upstream`: port of an API that
        is not in the pod.
        """
        self.name = name
        self.port, self._control, api = free_port(), free_port(), free_port()
        self.ready = False
        self.terminating = False
        self.problems: list[str] = []
        self._pod = pod
        self._directory = directory
        self._api = api
        self._ports = {"http": self.port, "control": self._control, "api": api}
        self._env = {
            "SIDECAR_LISTEN": f"127.0.0.1:{self.port}",
            "SIDECAR_CONTROL": f"127.0.0.1:{self._control}",
            "SIDECAR_UPSTREAM": f"http://127.0.0.1:{upstream or api}",
            "SIDECAR_SPOOL": str(directory / "spool"),
            **given,
        }
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._watching: asyncio.Task[None] | None = None

    @property
    def log(self) -> str:
        """What the containers have written."""
        return (self._directory / "log").read_text(errors="replace")

    async def start(self) -> None:
        """Start the containers, and return when the pod is ready. Raises DidNotStart."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for container in self._pod.containers:
            await self._start(container)
            if container.native and container.startup:
                await self._until_passes(container.startup)
        self._watching = asyncio.create_task(self._watch())
        deadline = asyncio.get_running_loop().time() + _READY_TIMEOUT_S
        while not self.ready:
            if self._watching.done():
                await self._watching
            if asyncio.get_running_loop().time() > deadline:
                raise DidNotStart(f"{self.name} is not ready. {self.log[-2000:]}")
            await asyncio.sleep(0.02)

    async def _start(self, container: Container) -> None:
        if container.name == SIDECAR:
            command = [str(_PROGRAM), "serve"]
            env = {**container.env, **self._env}
        else:
            command = [sys.executable, "-m", "loadtests.rehearse.api", str(self._api)]
            env = dict(container.env)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
        with (self._directory / "log").open("ab") as log:
            self._processes[container.name] = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=kept | env
            )

    async def _until_passes(self, probe: Probe) -> None:
        for _ in range(probe.failures):
            if await self._passes(probe):
                return
            self._check_alive()
            await asyncio.sleep(probe.period_s)
        raise DidNotStart(f"{self.name}: its startup probe failed. {self.log[-2000:]}")

    def _check_alive(self) -> None:
        for name, process in self._processes.items():
            if process.returncode is not None and not self.terminating:
                raise DidNotStart(f"{self.name}: {name} has ended. {self.log[-2000:]}")

    async def _watch(self) -> None:
        """Keep `ready` up to date, until the pod is deleted."""
        probes = [one.readiness for one in self._pod.containers if one.readiness]
        missed = 0
        while not self.terminating:
            self._check_alive()
            passed = all([await self._passes(probe) for probe in probes])
            missed = 0 if passed else missed + 1
            if passed or missed >= max(probe.failures for probe in probes):
                self.ready = passed
            await asyncio.sleep(min(probe.period_s for probe in probes))

    async def _passes(self, probe: Probe) -> bool:
        request = f"GET {probe.path} HTTP/1.0\r\n\r\n".encode()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[probe.port])
                writer.write(request)
                with contextlib.closing(writer):
                    return b" 200 " in await reader.readline()
        return False

    async def terminate(self) -> None:
        """Delete the pod: hooks, signals, and the end of each container."""
        self.terminating, self.ready = True, False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._pod.grace_s
        main = [one for one in self._pod.containers if not one.native]
        ended = {one.name: asyncio.Event() for one in main}
        await asyncio.gather(
            *(self._end(one, deadline, ended) for one in self._pod.containers),
        )
        if self._watching is not None:
            await self._watching

    async def _end(
        self, container: Container, deadline: float, ended: Mapping[str, asyncio.Event]
    ) -> None:
        process = self._processes[container.name]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                if container.pre_stop:
                    await self._run(container.pre_stop, process.pid)
                if container.native:
                    await asyncio.gather(*(one.wait() for one in ended.values()))
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await process.wait()
        except TimeoutError:
            self.problems.append(
                f"{self.name}: {container.name} was killed after {loop.time():.0f}"
            )
            process.kill()
            await process.wait()
        if process.returncode:
            self.problems.append(f"{self.name}: {container.name} ended with {process.returncode}")
        if container.name in ended:
            ended[container.name].set()

    async def _run(self, hook: Hook, pid: int) -> None:
        """Run a hook. In a container the sidecar is process 1; here the hook gets its number."""
        if not hook.command:
            await asyncio.sleep(hook.sleep_s)
            return
        program, *arguments = hook.command
        assert program == "python", hook.command
        done = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, str(pid), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await done.communicate()
        if done.returncode:
            self.problems.append(f"{self.name}: FailedPreStopHook: {errors.decode().strip()}")

    def kill(self) -> None:
        """End what still runs."""
        if self._watching is not None:
            self._watching.cancel()
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
