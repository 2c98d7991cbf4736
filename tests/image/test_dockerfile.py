"""What the Dockerfile says, without a container engine. `make rootfs` runs its steps."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stages(steps: ModuleType) -> list[Any]:
    found: list[Any] = steps.stages((ROOT / "Dockerfile").read_text())
    return found


def test_the_final_image_starts_from_scratch_and_runs_no_step_in_it(stages: list[Any]) -> None:
    build, final = stages
    assert build.base == "${PYTHON_IMAGE} AS build"
    assert final.base == "scratch"
    assert "RUN" not in {name for name, _ in final.steps}


def test_every_command_of_the_image_needs_no_shell(stages: list[Any]) -> None:
    final = stages[-1]
    commands = [final.last(name) for name in ("ENTRYPOINT", "CMD")]
    commands.append(final.last("HEALTHCHECK").partition("CMD ")[2])
    for command in commands:
        assert all(isinstance(word, str) for word in json.loads(command)), command


def test_the_user_is_a_number_and_owns_the_spool(stages: list[Any], root: ModuleType) -> None:
    final = stages[-1]
    assert final.last("USER") == f"{root.USER}:{root.USER}"
    spool = final.env["SIDECAR_SPOOL"]
    assert spool == f"/{root.SPOOL}" == final.last("WORKDIR") == json.loads(final.last("VOLUME"))[0]
    assert (
        final.last("COPY") == f"--from=build --chown={root.USER}:{root.USER} /rootfs{spool} {spool}"
    )


def test_what_is_copied_exists_and_is_not_ignored(stages: list[Any]) -> None:
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = [
        source for name, text in stages[0].steps if name == "COPY" for source in text.split()[:-1]
    ]
    assert "image/root.py" in copied
    for source in copied:
        assert (ROOT / source).exists()
        assert source.split("/")[0] in allowed


def test_packages_are_installed_by_hash_only(stages: list[Any]) -> None:
    installs = [text for name, text in stages[0].steps if name == "RUN" and "pip" in text]
    from_index = re.findall(r"pip[^&]* install ([^&]*)", " ".join(installs))
    assert len(from_index) == 3
    assert all(
        re.match(r"--require-hashes -r \S+\.lock|--no-deps /dist/", one) for one in from_index
    )


def test_the_base_image_is_the_one_of_the_file_that_pins_it() -> None:
    pinned = (ROOT / "image" / "python-image").read_text().strip()
    [default] = re.findall(
        r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert pinned.partition("@")[0] == default
    assert re.fullmatch(r"[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?", pinned)
