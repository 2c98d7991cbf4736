"""libFuzzer on the loader of plan files: `python -m tests.fuzz` starts it."""

import sys

import atheris

with atheris.instrument_imports(include=["sidecar", "yaml"]):
    from tests.fuzz.plan_file import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
