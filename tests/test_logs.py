"""Each log event is one line with one JSON object."""

import json
import subprocess
import sys
from typing import Any

PROGRAM = """
import asyncio
from sidecar import logs

logs.configure()
log = logs.logger("test")

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unhandled)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

try:
    raise ValueError("wrong")
except ValueError as error:
    log.error("request_failed", request_id="1", exc_info=error)
log.info("hello", token="abc", password="def")
asyncio.run(main())
"""


def lines() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_tracebacks_and_unhandled_exceptions_are_one_json_object_each() -> None:
    failed, hello, unhandled = lines()
    assert (failed["event"], failed["level"], failed["request_id"]) == (
        "request_failed",
        "error",
        "1",
    )
    assert failed["exception"].startswith("Traceback ")
    assert failed["exception"].endswith("\nValueError: wrong")
    assert (hello["token"], hello["password"]) == ("[hidden]", "[hidden]")
    assert (unhandled["part"], unhandled["event"]) == ("loop", "unhandled_exception")
    assert unhandled["error"].startswith("Exception in callback")
    assert "ZeroDivisionError" in unhandled["exception"]


WRITERS = """
import os, sys
from sidecar import logs

for _ in range(3):
    if os.fork() == 0:
        break
logs.configure()
log = logs.logger("test")
for number in range(60):
    log.info("request_ended", text=str(os.getpid()) * (20 if number % 2 else 12_000))
"""


def test_operations_lines_of_several_processes_are_never_mixed() -> None:
    """A long line is more than a pipe takes at once."""
    done = subprocess.run(
        [sys.executable, "-c", WRITERS], capture_output=True, text=True, timeout=60, check=True
    )
    texts = [json.loads(line)["text"] for line in done.stderr.splitlines()]
    assert len(texts) == 4 * 60
    assert len({text[:20] for text in texts}) == len({text[-20:] for text in texts}) == 4
