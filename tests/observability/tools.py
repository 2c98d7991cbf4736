"""Prometheus and promtool, which CI installs, and the files of the chart that they read."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
RULES: Final = sorted((ROOT / "helm" / "sidecar" / "rules").glob("*.yaml"))
DASHBOARDS: Final = sorted((ROOT / "helm" / "sidecar" / "dashboards").glob("*.json"))
PROMETHEUS: Final = shutil.which("prometheus") or ""
PROMTOOL: Final = shutil.which("promtool") or ""

needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL) and "CI" not in os.environ,
    reason="prometheus and promtool are not installed (Debian, Ubuntu: apt-get install prometheus)",
)
