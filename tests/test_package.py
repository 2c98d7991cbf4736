"""The installed package: version, files of the wheel, pinned dependencies, help of make."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import sidecar

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions_in(requirements: list[str]) -> set[str]:
    """The distributions in a list of requirements, without this package."""
    names = {canonical(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in requirements}
    return names - {PROJECT["name"]}


def pinned_in(lock: str) -> set[str]:
    """The distributions that a lock file pins."""
    return {
        canonical(n) for n in re.findall(r"^([\w.-]+)==", (ROOT / lock).read_text(), re.MULTILINE)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from this tree, without the network."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_installed_version_is_the_packages_version() -> None:
    assert version("quota-sidecar") == sidecar.__version__


def test_the_wheel_has_every_script_and_other_file_that_is_read(wheel: set[str]) -> None:
    scripts = {str(path.relative_to(ROOT)) for path in (ROOT / "sidecar").rglob("*.lua")}
    assert scripts, "the limit scripts are not where the package keeps them"
    assert scripts <= wheel
    assert {
        "sidecar/py.typed",
        "sidecar/serve/openapi.json",
        "sidecar/config/starter.yaml",
    } <= wheel


def test_the_wheel_has_every_module_and_no_tests(wheel: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sidecar").rglob("*.py")}
    assert modules <= wheel
    assert {name.split("/")[0] for name in wheel} == {
        "sidecar",
        f"quota_sidecar-{sidecar.__version__}.dist-info",
    }


def test_every_extra_is_in_the_lock() -> None:
    pinned = pinned_in("requirements.lock")
    for extra, requirements in PROJECT["optional-dependencies"].items():
        assert distributions_in(requirements) <= pinned, f"extra {extra!r}: run make lock"


def test_the_runtime_lock_has_the_dependencies_and_tracing_and_no_tools() -> None:
    """It is what the image contains. A tool is what only the other extras name."""
    extras = PROJECT["optional-dependencies"]
    pinned = pinned_in("requirements-runtime.lock")
    wanted = distributions_in(PROJECT["dependencies"]) | distributions_in(extras["otel"])
    assert wanted <= pinned
    tools = set().union(*(distributions_in(extras[extra]) for extra in extras))
    assert tools & pinned <= wanted | {"protobuf"}  # which OpenTelemetry needs as well


@pytest.mark.parametrize(
    "lock", ["requirements-runtime.lock", "requirements-demo.lock", "requirements-build.lock"]
)
def test_all_locks_agree_on_versions(lock: str) -> None:
    pins = re.compile(r"^[\w.-]+==[^\\]+", re.MULTILINE)
    every_pin = set(pins.findall((ROOT / "requirements.lock").read_text()))
    assert set(pins.findall((ROOT / lock).read_text())) <= every_pin


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_a_lock_pins_by_hash_and_names_no_server(lock: str) -> None:
    text = (ROOT / lock).read_text()
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in requirement, requirement.splitlines()[0]
    assert "://" not in text


def test_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    shown = subprocess.run(
        ["make", "--no-print-directory"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    listed = re.findall(r"^  make (\w+)\s+\S", shown, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())
