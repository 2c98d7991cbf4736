"""Lists the packages of an environment and their licences: `python image/sbom.py PYTHON DIRECTORY`.

Writes sbom.cdx.json (CycloneDX 1.6, validated) and licences.md. Exits with 1 if a package of the
lock file is missing in the environment, or has no known licence.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "requirements-runtime.lock"
OWN: Final = "quota-sidecar"
UNKNOWN: Final = "UNKNOWN"


def locked(lock: str) -> Iterator[tuple[str, str]]:
    """(name, version) of each package of a lock file that Linux and a current Python need."""
    for name, version, marker in re.findall(
        r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", lock, re.MULTILINE
    ):
        if not marker:
            yield name, version


def write_sbom(python: Path, target: Path) -> dict[str, Any]:
    """Write the bill of materials of an environment, and return it."""
    program = Path(sys.executable).parent / "cyclonedx-py"
    options = ["--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--validate"]
    subprocess.run([program, "environment", *options, "-o", target, python], check=True)
    listed: dict[str, Any] = json.loads(target.read_text())
    return listed


def write_licences(python: Path, target: Path, packages: list[str]) -> dict[str, str]:
    """Write the licences of these packages, and return the licence of each."""
    program = Path(sys.executable).parent / "pip-licenses"
    options = ["--python", python, "--with-system", "--packages", *packages]
    common = [program, *options, "--from", "mixed"]
    table = subprocess.run(
        [*common, "--format", "markdown", "--with-urls"], capture_output=True, text=True, check=True
    )
    target.write_text(table.stdout)
    data = subprocess.run([*common, "--format", "json"], capture_output=True, check=True).stdout
    return {plain(row["Name"]): row["License"] for row in json.loads(data)}


def plain(name: str) -> str:
    """A package's name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def problems(sbom: dict[str, Any], licences: dict[str, str]) -> Iterator[str]:
    """What is wrong with the lists."""
    present = {(plain(one["name"]), one["version"]) for one in sbom.get("components", [])}
    for name, version in locked(LOCK.read_text()):
        if (name, version) not in present:
            yield f"{name} {version} is not in the environment"
        if licences.get(name, UNKNOWN) == UNKNOWN:
            yield f"{name} {version} has no known licence"


def main() -> int:
    """Write both lists."""
    if len(sys.argv) != 3:
        print("usage: python image/sbom.py PYTHON DIRECTORY", file=sys.stderr)
        return 2
    python, directory = Path(sys.argv[1]), Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    sbom = write_sbom(python, directory / "sbom.cdx.json")
    packages = [name for name, _ in locked(LOCK.read_text())]
    licences = write_licences(python, directory / "licences.md", packages)
    found = list(problems(sbom, licences))
    print("\n".join(found) or f"{len(licences)} packages and their licences are in {directory}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
