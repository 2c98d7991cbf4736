"""Builds the control plane of Kubernetes from its Go module; about ten CPU minutes, once.

The module replaces its staging modules by folders that are not in it. They are published, too:
k8s.io/api at v0.34.4 is the one of Kubernetes v1.34.4.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

VERSION: Final = "1.34.4"
PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager")
FOLDER: Final = Path(__file__).parents[2] / "build" / "cluster"
_MODULE: Final = "k8s.io/kubernetes"
_STAGING: Final = re.compile(r"^\s*(k8s\.io/[a-z0-9-]+) => \./staging/", re.MULTILINE)


class NotBuilt(Exception):
    """The programs cannot be built; the text says what is missing."""


def programs() -> dict[str, Path]:
    """The programs that are built already, by name."""
    found = {name: _file(name) for name in PROGRAMS}
    return {name: file for name, file in found.items() if os.access(file, os.X_OK)}


def build() -> None:
    """Build what is missing. Raises NotBuilt."""
    missing = [name for name in PROGRAMS if name not in programs()]
    if not missing:
        return
    if shutil.which("go") is None:
        raise NotBuilt("go is missing; install Go 1.24 or newer")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "go.mod").write_text(_go_mod())
    major, minor, _ = VERSION.split(".")
    version = "k8s.io/component-base/version"
    flags = f"-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor={major} "
    flags += f"-X {version}.gitMinor={minor}"
    for name in missing:
        print(f"Building {name} {VERSION} (some minutes, once) …", flush=True)
        _go(
            "build", "-mod=mod", "-trimpath", "-ldflags", flags, "-o", str(_file(name)),
            f"{_MODULE}/cmd/{name}",
        )  # fmt: skip


def _file(name: str) -> Path:
    return FOLDER / f"{name}-{VERSION}"


def _go_mod() -> str:
    """A module that needs Kubernetes and replaces each staging module by the published one."""
    download: dict[str, Any] = json.loads(_go("mod", "download", "-json", f"{_MODULE}@v{VERSION}"))
    own = Path(download["GoMod"]).read_text()
    published = f"v0.{VERSION.partition('.')[2]}"
    replaced = "\n".join(f"\t{name} => {name} {published}" for name in _STAGING.findall(own))
    language = re.search(r"^go .*$", own, re.MULTILINE)
    return (
        f"module apiserver\n\n{language[0] if language else 'go 1.24.0'}\n\n"
        f"require {_MODULE} v{VERSION}\n\nreplace (\n{replaced}\n)\n"
    )


def _go(*arguments: str) -> str:
    """Run go with low priority in FOLDER, and return its output. Raises NotBuilt."""
    done = subprocess.run(
        ["nice", "-n", "10", "go", *arguments],
        cwd=FOLDER, text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise NotBuilt(f"go {arguments[0]} failed:\n{last}")
    return done.stdout
