"""Fuzz the loader of plan files and the control port: `python -m tests.fuzz --seconds 600`.

The loader gets bytes that atheris (libFuzzer) changes to reach new code, and files that Hypothesis
makes almost valid. A finding is printed, kept in `build/fuzz`, and ends the run with exit code 1.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOUND: Final = ROOT / "build" / "fuzz"
_MEGABYTES: Final = 1_024
_LONGEST_FILE: Final = 20_000  # bytes


def loader(seconds: int) -> int:
    """Coverage-guided bytes, in a process of its own: libFuzzer ends it."""
    seeds = FOUND / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    from tests.fuzz.plan_file import examples

    for number, text in enumerate(examples()):
        (seeds / f"example{number}").write_bytes(text)
    command = [
        sys.executable, "-m", "tests.fuzz.atheris_loader", str(seeds),
        f"-max_total_time={seconds}", f"-max_len={_LONGEST_FILE}", f"-rss_limit_mb={_MEGABYTES}",
        "-timeout=20", f"-artifact_prefix={FOUND}/", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def almost_valid(seconds: int) -> int:
    """Files that are almost valid, without end until the time is over."""
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz.plan_file import almost_valid, check

    end = time.monotonic() + seconds
    count = 0

    @settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(almost_valid())
    def some(text: bytes) -> None:
        nonlocal count
        count += 1
        check(text)

    while time.monotonic() < end:
        some()
    print(f"{count:,} almost valid plan files: no finding")  # noqa: T201 - its result
    return 0


def control(seconds: int) -> int:
    """The control port against its OpenAPI document; about 40 requests per second and path."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
               "--hypothesis-profile=free", "tests/serve/test_control_port_fuzz.py"]  # fmt: skip
    environment = os.environ | {"FUZZ_EXAMPLES": str(max(20, seconds * 3))}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


PARTS: Final = {"loader": loader, "almost-valid": almost_valid, "control": control}


def main() -> int:
    """Run the fuzzers one after the other; 0 if none has found anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="time of each fuzzer")
    parser.add_argument("--only", choices=PARTS, help="run only this one")
    options = parser.parse_args()
    codes = {}
    for name, run in PARTS.items():
        if options.only in (None, name):
            print(f"{name}: about {options.seconds} s", flush=True)  # noqa: T201
            codes[name] = run(options.seconds)
    failed = [name for name, code in codes.items() if code]
    result = f"findings: {', '.join(failed)}; see {FOUND}" if failed else "no findings"
    print(result)  # noqa: T201 - its result
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
