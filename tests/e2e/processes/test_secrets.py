"""No secret is in a log, an error, an event, a response, the process list or a crash."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.secret_stage import SecretStage

SECRET = "hush-7d1f0c"
PLANS = Path(__file__).parents[3] / "examples" / "plans.yaml"
HOLDERS = {  # a line that shows the output is not empty
    "log": '"certificate_rejected"',
    "control port": '"failed_since": "20',
    "data port": "HTTP/1.1 502",
    "decide port": "200 ",
    "events": '"api.request.v1"',
    "process list": "serve",
}


@pytest.fixture(scope="module")
def misused(tmp_path_factory: pytest.TempPathFactory) -> SecretStage:
    stage = SecretStage(tmp_path_factory.mktemp("secrets"))
    stage.run()
    return stage


@pytest.mark.parametrize("output", HOLDERS)
def test_security_no_secret_is_in(misused: SecretStage, output: str) -> None:
    assert HOLDERS[output] in misused.outputs[output]
    assert misused.leaks(output) == []


def test_security_a_crash_shows_no_secret_and_writes_no_core_dump(misused: SecretStage) -> None:
    assert len(misused.processes) >= 3  # the supervisor and two workers
    assert misused.core_limits == {"0"}
    assert list(misused.directory.glob("**/core*")) == []
    assert '"exit_code": -6' in misused.outputs["log"]  # and no secret, as tested above


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SIDECAR_REDIS", f"redis://:{SECRET}/x@127.0.0.1:1/0"),
        ("SIDECAR_REDIS", f"http://user:{SECRET}@127.0.0.1/"),
        ("SIDECAR_REDIS", f"redis+sentinel://h/m?sentinel_password={SECRET}&x=1"),
        ("SIDECAR_WEBHOOK_SECRET", SECRET),
        ("SIDECAR_WEBHOOK_SECRET", f"whsec_{SECRET}"),
        ("SIDECAR_CONTROL_TOKEN_FILE", SECRET),
        ("SIDECAR_UPSTREAM", f"http://user:{SECRET}@127.0.0.1:3000"),
    ],
)
def test_security_an_error_about_a_setting_does_not_repeat_its_secret(
    sidecar: Any, tmp_path: Path, variable: str, value: str
) -> None:
    given = {
        "SIDECAR_PLANS": str(PLANS), "SIDECAR_UPSTREAM": "http://127.0.0.1:1",
        "SIDECAR_CONTROL": "127.0.0.1:0", "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_SPOOL": str(tmp_path / "spool"), "SIDECAR_LOG_LEVEL": "debug", variable: value,
    }  # fmt: skip
    done = sidecar("serve", **given)
    assert done.returncode == 2
    assert f"({variable})" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("accounts", "list"),
        ("keys", "create", "--account", "acme"),
        ("explain", "--plans", PLANS, "--key-env", "MY_KEY", "GET", "/"),
        ("reconcile", "--plans", PLANS, "--spool", "spool"),
    ],
    ids=lambda command: command[0],
)
def test_security_a_command_without_redis_shows_no_secret(
    sidecar: Any, command: tuple[Any, ...]
) -> None:
    done = sidecar(
        *command, SIDECAR_REDIS=f"redis://:{SECRET}@127.0.0.1:1/0", MY_KEY=SECRET,
        SIDECAR_LOG_LEVEL="debug",
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_security_a_secret_on_the_command_line_is_reported_without_it(
    sidecar: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = sidecar(
        "serve", "--plans", PLANS, "--upstream", "http://127.0.0.1:1",
        "--redis", f"redis://:{SECRET}@127.0.0.1:1/0", "--spool", "file",
    )  # fmt: skip
    assert '"flag": "--redis"' in done.stderr
    assert '"secret_on_command_line"' in done.stderr
    assert SECRET not in done.stdout + done.stderr
