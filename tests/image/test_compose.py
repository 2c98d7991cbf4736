"""compose.yaml, as docker compose itself reads it. No container engine is here to start it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml

from sidecar import __version__
from sidecar.config.loading import load
from sidecar.settings.model import Settings
from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = Path(compose.__file__).parent / "docker-compose"  # its script hides the exit code
OURS = ("sidecar", "api")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project in its canonical form. `config` refuses unknown keys and wrong values."""
    done = subprocess.run(
        [COMPOSE, "-f", ROOT / "compose.yaml", "config", "--format", "json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def mounts(project: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """(service, file or directory of this repository) of each bind mount."""
    for name, service in project["services"].items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                yield name, Path(volume["source"])


def test_docker_compose_refuses_a_typo(tmp_path: Path) -> None:
    wrong = (ROOT / "compose.yaml").read_text().replace("read_only:", "readonly:")
    (tmp_path / "compose.yaml").write_text(wrong)
    done = subprocess.run(
        [COMPOSE, "-f", tmp_path / "compose.yaml", "config", "-q"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "readonly" in done.stderr


def test_every_file_that_a_service_mounts_exists(project: dict[str, Any]) -> None:
    found = dict(mounts(project))
    assert found.keys() >= {"sidecar", "prometheus", "grafana"}
    assert [path for _, path in mounts(project) if not path.exists()] == []


def test_every_port_is_open_on_this_machine_only(project: dict[str, Any]) -> None:
    ports = [port for service in project["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_every_service_is_confined(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_sidecar_accepts_its_settings_and_plan_file(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = project["services"]["sidecar"]
    for name, value in sidecar["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings.load({})
    [source] = [volume for volume in sidecar["volumes"] if volume["type"] == "bind"]
    plans = Path(source["source"]) / settings.plans.relative_to(source["target"])
    assert load(plans).plans
    # The names of services are names of machines there.
    assert settings.redis_label.startswith("redis://valkey:6379")
    assert "sidecar" in settings.control_hosts
    delay = settings.drain_delay_s + settings.drain_timeout_s
    assert float(sidecar["stop_grace_period"].removesuffix("s")) >= delay + 5


def test_the_images_of_this_repository_have_its_version(project: dict[str, Any]) -> None:
    for name in OURS:
        assert project["services"][name]["image"] == f"quota-sidecar:{__version__}"
    others = {s["image"] for name, s in project["services"].items() if name not in OURS}
    assert all(":" in image and not image.endswith(":latest") for image in others)


def test_prometheus_scrapes_the_control_port_and_grafana_reads_prometheus() -> None:
    folder = ROOT / "examples" / "compose"
    prometheus = yaml.safe_load((folder / "prometheus.yml").read_text())
    [job] = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["sidecar:9090"]}]
    [source] = yaml.safe_load((folder / "grafana/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"


async def test_the_sample_api_runs_alone_and_ends_on_sigterm() -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "sidecar.demo.api", str(port)
    )
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    await asyncio.sleep(0.02)
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"all systems up" in await reader.read()
            writer.close()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
