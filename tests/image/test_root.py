"""The root file system of the image, assembled from this machine's Python without packages.

`make rootfs` assembles the whole: with the packages of the lock file and the compiled data path.
No test here pulls the base image, writes layers or applies a seccomp profile.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHECK = """
import ssl, sqlite3, zoneinfo, hashlib, asyncio, os, sys, ctypes, lzma, zlib, bz2, uuid, socket
assert os.getuid() == 65532, os.getuid()
assert ssl.create_default_context().get_ca_certs(), "no CA certificates"
open("/var/spool/sidecar/event", "w").write("x")
for path in ("/x", "/tmp/x", "/etc/x"):
    try:
        open(path, "w")
    except OSError as error:
        assert error.errno in (13, 30), error
    else:
        raise AssertionError(path + " is writable")
assert socket.gethostbyname("localhost") if os.path.exists("/etc/hosts") else True
asyncio.run(asyncio.sleep(0))
print("complete")
"""


def can_confine() -> str:
    """Why this machine cannot start a root file system; empty if it can."""
    if os.geteuid():
        return "needs root"
    missing = [name for name in ("unshare", "setpriv", "ldd", "dpkg") if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False)
    return "" if tried.returncode == 0 else "may make no namespaces"


@pytest.fixture(scope="module")
def rootfs(root: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := can_confine():
        pytest.skip(f"the root file system is not started: {reason}")
    directory: Path = tmp_path_factory.mktemp("image") / "rootfs"
    directory.mkdir()
    root.add_python(directory)
    libraries = root.add_libraries(directory)
    root.add_notices(directory, libraries)
    root.add_files(directory)
    return directory


def test_python_runs_as_the_images_user_on_a_read_only_root_without_capabilities(
    steps: ModuleType, rootfs: Path
) -> None:
    _, final = steps.stages((Path(__file__).parents[2] / "Dockerfile").read_text())
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    with steps.start(rootfs, final, python, "-c", CHECK) as process:
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "complete\n")


def test_the_root_has_neither_a_shell_nor_a_package_manager(rootfs: Path) -> None:
    names = {path.name for path in rootfs.rglob("*") if os.access(path, os.X_OK) and path.is_file()}
    assert not names & {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "gcc"}


def test_the_packages_of_the_libraries_are_named_with_their_licences(rootfs: Path) -> None:
    status = rootfs / "var/lib/dpkg/status.d"
    names = {path.name for path in status.iterdir()}
    assert {"libc6", "ca-certificates"} <= names
    for path in status.iterdir():
        assert "Version: " in path.read_text(), path
    assert (rootfs / "usr/share/doc/libc6/copyright").exists()


def test_the_standard_library_has_no_tests_and_no_tools(rootfs: Path) -> None:
    library = next((rootfs / Path(sys.base_prefix).relative_to("/")).glob("lib/python3.*"))
    assert not [name for name in ("test", "idlelib", "ensurepip") if (library / name).exists()]
    assert (library / "asyncio").exists()


def test_an_empty_environment_has_none_of_the_locked_packages(
    sbom: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    arguments = ["sbom.py", str(tmp_path / "venv/bin/python"), str(tmp_path / "lists")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert sbom.main() == 1
    printed = capsys.readouterr().out
    locked = dict(sbom.locked(sbom.LOCK.read_text()))
    assert len(locked) > 20
    for name, version in locked.items():
        assert f"{name} {version} is not in the environment" in printed
    assert (tmp_path / "lists" / "sbom.cdx.json").exists()
