"""Fixtures: the scripts of the image, which are no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

IMAGE = Path(__file__).parents[2] / "image"


def script(name: str) -> ModuleType:
    """The module image/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"image_{name}", IMAGE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def root() -> ModuleType:
    return script("root")


@pytest.fixture(scope="session")
def steps() -> ModuleType:
    return script("steps")


@pytest.fixture(scope="session")
def sbom() -> ModuleType:
    return script("sbom")
