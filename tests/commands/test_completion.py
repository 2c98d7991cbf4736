"""Shell completion, in a real bash."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.support.commands import SIDECAR

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")

SCRIPT = r"""
eval "$(_SIDECAR_COMPLETE=source_bash sidecar)"
complete -p sidecar
for line in "sidecar keys " "sidecar check --str" "sidecar serve --drain-d"; do
  read -ra COMP_WORDS <<< "$line"
  [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _sidecar_completion sidecar
  echo "$line|${COMPREPLY[*]}"
done
"""


def test_bash_completes_commands_and_options(environment: Callable[..., dict[str, str]]) -> None:
    path = f"{SIDECAR.parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT],
        capture_output=True, text=True, timeout=60, check=True, env=environment(PATH=path),
    )  # fmt: skip
    registered, *completed = done.stdout.splitlines()
    assert registered.endswith(" sidecar")
    found = {line.split("|")[0]: line.split("|")[1].split() for line in completed}
    assert sorted(found["sidecar keys "]) == ["create", "list", "revoke", "rotate"]
    assert found["sidecar check --str"] == ["--strict"]
    assert found["sidecar serve --drain-d"] == ["--drain-delay-s"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str, environment: Callable[..., dict[str, str]]) -> None:
    done = subprocess.run(
        [SIDECAR],
        capture_output=True, text=True, timeout=60, check=True,
        env=environment(_SIDECAR_COMPLETE=f"source_{shell}"),
    )  # fmt: skip
    assert f"_SIDECAR_COMPLETE=complete_{shell}" in done.stdout
