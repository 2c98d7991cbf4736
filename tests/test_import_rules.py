"""Each case adds one wrong import to a copy of the package; its rule in pyproject.toml breaks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = Path(sys.executable).parent / "lint-imports"

pytestmark = pytest.mark.skipif(not LINT.exists(), reason="import-linter is not installed")

WRONG = {
    "a package without a place in the layers": ("parking/__init__.py", "", "layers"),
    "waiting imports stores": ("waiting/deadlines.py", "import sidecar.stores.keys", "layers"),
    "gate imports aiohttp": ("gate/admission.py", "import aiohttp", "aiohttp"),
    "core reads a clock": ("core/claims.py", "import time", "pure"),
    "the proxy knows the decide port": ("proxy/bounds.py", "import sidecar.decide.port", "layers"),
    "the proxy reads settings": ("proxy/bounds.py", "import sidecar.settings", "entry points"),
    "upstream knows downstream": (
        "proxy/upstream/address.py",
        "import sidecar.proxy.downstream.faults",
        "do not know each other",
    ),
    "two neighbours in core import each other": (
        "core/model.py",
        "import sidecar.core.periods",
        "cycles",
    ),
}


def broken_rules(tmp_path: Path, file: str, line: str) -> list[str]:
    """Names of the rules that break when `line` is added to a file of the package."""
    shutil.copytree(ROOT / "sidecar", tmp_path / "sidecar")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "sidecar" / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as opened:
        opened.write(f"\n{line}\n")
    done = subprocess.run(
        [str(LINT), "--no-cache"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "COLUMNS": "300"},
        check=False,
    )
    return [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]


@pytest.mark.parametrize("why", WRONG)
def test_a_wrong_import_breaks_its_rule(tmp_path: Path, why: str) -> None:
    file, line, rule = WRONG[why]
    broken = broken_rules(tmp_path, file, line)
    assert any(rule in name for name in broken), broken
