"""`sidecar inject` and `sidecar uninject` as commands."""

import subprocess
from pathlib import Path

import pytest

from sidecar.cli import run
from sidecar.kubernetes import documents
from tests.support.commands import SIDECAR, clean_environment
from tests.support.manifests import service, workload

PLANS = Path(__file__).parents[2] / "examples" / "plans.yaml"
WITH_REDIS = ("--redis-secret", "shop-redis")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A manifest with a Deployment and its Service."""
    path = tmp_path / "shop.yaml"
    path.write_text(documents.write([workload(), service({"port": 80, "targetPort": 8000})]))
    return path


def test_a_manifest_passes_through_a_pipe_and_back(shop: Path) -> None:
    def pipe(text: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [str(SIDECAR), *map(str, arguments), "-"]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=60, check=True,
            env=clean_environment(),
        )  # fmt: skip

    injected = pipe(shop.read_text(), "inject", "--plans", PLANS, *WITH_REDIS, "--sinks", "redis")
    config_map, deployment, service_ = documents.read(injected.stdout.encode(), "f")
    assert config_map["data"]["plans.yaml"] == PLANS.read_text()
    assert deployment["spec"]["template"]["spec"]["initContainers"][0]["name"] == "quota-sidecar"
    assert service_["spec"]["ports"] == [{"port": 80, "targetPort": "http"}]
    assert injected.stderr == (
        'note: Deployment shop: its port "http" (8080) is the sidecar\'s, in front of port 8000\n'
    )
    restored = pipe(injected.stdout, "uninject")
    assert documents.read(restored.stdout.encode(), "f") == documents.read(shop.read_bytes(), "f")
    assert restored.stderr == ""


def test_options_reach_the_container(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--plans-config-map", "sold", "--redis", "redis://redis:6379/0", "--only", "shop",
        "--api-port", "http", "--port", "7000", "--control-port", "7001", "--image", "x/quota:1",
        "--source", "/shop", "--sinks", "redis", "--cpu", "2", "--memory", "1Gi",
        "--stop-delay", "9", "--env", "SIDECAR_ACCESS_LOG=true", "--namespace", "test",
    )  # fmt: skip
    assert run(["inject", *options, str(shop)]) == 0
    deployment, _ = documents.read(capsys.readouterr().out.encode(), "f")
    spec = deployment["spec"]["template"]["spec"]
    (sidecar,) = spec["initContainers"]
    env = {each["name"]: each["value"] for each in sidecar["env"]}
    assert env == {
        "SIDECAR_UPSTREAM": "http://127.0.0.1:8000",
        "SIDECAR_PLANS": "/etc/quota-sidecar/plans.yaml",
        "SIDECAR_LISTEN": "0.0.0.0:7000",
        "SIDECAR_CONTROL": "0.0.0.0:7001",
        "SIDECAR_SOURCE": "/shop",
        "SIDECAR_ACCESS_LOG": "true",
        "SIDECAR_REDIS": "redis://redis:6379/0",
        "SIDECAR_SINKS": "redis",
    }
    assert sidecar["image"] == "x/quota:1"
    assert sidecar["resources"] == {
        "requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"memory": "1Gi"},
    }
    assert spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 9
    assert spec["volumes"][0]["configMap"]["name"] == "sold"


def test_the_environment_the_sidecar_reads_is_one_that_serve_accepts(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidecar.settings import Settings

    run(["inject", "--plans-config-map", "sold", "--redis", "redis://r:1/0", str(shop)])
    deployment, _ = documents.read(capsys.readouterr().out.encode(), "f")
    for each in deployment["spec"]["template"]["spec"]["initContainers"][0]["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    settings = Settings.load({})
    assert str(settings.listen) == "0.0.0.0:8080"
    assert settings.source == "/sidecar/prod/shop"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plans", PLANS, "--plans-config-map", "x"), "give one of --plans and --plans-config"),
        (("--plans", "missing.yaml"), "--plans: missing.yaml does not exist"),
        (("--plans", PLANS, "--port", "99999"), '--port: "99999" is not a port'),
        (("--plans-config-map", "A B"), '--plans-config-map: "A B" is not a name in Kubernetes'),
        (("--redis", "http://x"), "--redis: not a Redis URL"),
        (("--redis", "redis://u:secret-word@r:1/0"), "--redis: the URL has a password, which the "),
        (("--env", "SIDECAR_PORT=1"), '--env: "SIDECAR_PORT" is not a setting of a pod'),
        (("--env", "SIDECAR_SPOOL=/x"), '--env: "SIDECAR_SPOOL" is not a setting of a pod'),
        (("--env", "SIDECAR_LISTEN=x"), "--env: SIDECAR_LISTEN has an option"),
        (("--env", "SIDECAR_WEBHOOK_SECRET=secret-word"), "--env: SIDECAR_WEBHOOK_SECRET is a se"),
        (("--env", "SIDECAR_REDIS_TIMEOUT_MS=x"), "--env: --redis-timeout-ms (SIDECAR_REDIS_TIM"),
        (("--env", "SIDECAR_TLS_CERT=/x"), "--env: --tls-"),
        (("--env", "secret-word"), "--env: this is not a variable"),
        (("--sinks", "kafka"), '--sinks: "kafka" is not a sink'),
        ((), "{shop}: Deployment shop: spec.template: no plan file is given"),
        (("--plans", PLANS), "{shop}: Deployment shop: spec.template: no Secret with the URL of"),
        (("--only", "cart"), '{shop}: "cart" is not in it'),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    assert run(["inject", *map(str, arguments), str(shop)]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"error: {message.format(shop=shop)}")
    assert "secret-word" not in errors


def test_an_invalid_plan_file_is_refused_with_its_position(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = tmp_path / "plans.yaml"
    plans.write_text("version: 1\nplans: {free: {limits: [{id: a, meter: x, rate: much}]}}\n")
    assert run(["inject", "--plans", str(plans), *WITH_REDIS, str(shop)]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert f"error: {plans}:2:" in errors


@pytest.mark.parametrize("command", ["inject", "uninject"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": cannot be read: No such file or directory"),
        ("kind: [", ":2:1: not valid YAML: "),
        ("a: b", ": an object has no apiVersion or kind"),
        ("", ""),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(
    command: str,
    content: str | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_text(content)
    more = ["--plans-config-map", "x", *WITH_REDIS] if command == "inject" else []
    code = run([command, *more, str(path)])
    out, errors = capsys.readouterr()
    assert out == ""
    if content == "" and command == "uninject":
        assert (code, errors) == (0, f"note: {path}: no object has the sidecar\n")
    else:
        assert code == 2
        assert errors.startswith(f"error: {path}{message}")
