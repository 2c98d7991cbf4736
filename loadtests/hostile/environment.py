"""The processes of one attack: Valkey, the API, a sidecar with default settings, the attacker."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import redis

from loadtests.compare.gateways import GATEWAY_CORE, OTHERS_CORE
from loadtests.hostile.accounts import plan_file
from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http, wait_for_port
from loadtests.valkey import start_valkey

ROOT: Final = Path(__file__).parents[2]
SPARE_SECONDS: Final = 60.0  # for an attacker to end after its deadline
_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")


class HostileEnvironment:
    """The processes of one attack. The stack stops them. The sidecar has a core of its own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.port, self._control, self._api_port = free_port(), free_port(), free_port()

    def start(self) -> None:
        """Start all processes but the attacker. Raises DidNotStart."""
        _, valkey = start_valkey(self._stack, core=OTHERS_CORE)
        self._redis = redis.Redis(port=valkey, socket_timeout=10)
        api = self._start_module("api", "loadtests.hostile.api", str(self._api_port))
        wait_for_port(api, self._api_port)
        plans = self._stack.directory / "plans.yaml"
        plans.write_text(plan_file())
        flags = {
            "plans": plans,
            "upstream": f"http://127.0.0.1:{self._api_port}",
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self._control}",
            "redis": f"redis://127.0.0.1:{valkey}/0",
            "spool": self._stack.directory / "spool",
        }
        command = [_PROGRAM, "serve", *(f"--{name}={value}" for name, value in flags.items())]
        self.sidecar = self._stack.start("sidecar", command, core=GATEWAY_CORE)
        wait_for_http(self.sidecar, f"http://127.0.0.1:{self._control}/readyz")

    def _start_module(self, name: str, *arguments: str) -> Running:
        command = [sys.executable, "-m", *arguments]
        return self._stack.start(name, command, core=OTHERS_CORE, env={"PYTHONPATH": str(ROOT)})

    async def attack(self, name: str, seconds: float) -> int:
        """Run the attack. Returns how much the attacker sent. Raises DidNotStart if it failed."""
        arguments = ("loadtests.hostile.attacks", name, str(self.port), str(seconds))
        attacker = self._start_module("attacker", *arguments)
        try:
            code = await asyncio.to_thread(attacker.popen.wait, seconds + SPARE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        output = attacker.tail()
        if code != 0 or not output.isdecimal():
            raise DidNotStart(f"the attacker ended with {code}; its last output: {output}")
        return int(output)

    def redis_bytes(self) -> int:
        """The memory that Redis uses for data and connections, in bytes."""
        info: Any = self._redis.info("memory")
        return int(info["used_memory"])

    def close(self) -> None:
        """Close the connection to Redis."""
        self._redis.close()

    def error_lines(self) -> list[str]:
        """Lines of the sidecar's log with a traceback or an unhandled exception."""
        lines = self.sidecar.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or '"exception"' in line]
