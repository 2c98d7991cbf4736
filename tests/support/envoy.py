"""A real Envoy with the configuration of plugins/envoy."""

import importlib.util
from typing import Any

from tests.support.gateways import Behind, Place, find
from tests.support.vectors import PLUGINS

ENVOY = find("envoy")


def configured(place: Place) -> list[str]:
    """The command of Envoy with the configuration of plugins/envoy, at the place's addresses."""
    text = (PLUGINS / "envoy/envoy.yaml").read_text()
    for old, new in {
        "port_value: 8080": f"port_value: {place.port}",
        "port_value: 3000": f"port_value: {place.api}",
        "port_value: 50051": f"port_value: {place.grpc_api or 1}",
        "/run/sidecar/decide-grpc.sock": str(place.grpc_socket),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    file = place.directory / "envoy.yaml"
    file.write_text(text)
    return [
        str(ENVOY), "--config-path", str(file), "--concurrency", "1", "--disable-hot-restart",
        "--log-level", "warning", "--use-dynamic-base-id",
    ]  # fmt: skip


def example(name: str) -> Any:
    """A module of plugins/envoy/example."""
    spec = importlib.util.spec_from_file_location(name, PLUGINS / f"envoy/example/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def use_plans(one: Behind, plans: str) -> None:
    """Replace the plan file of the sidecar."""
    assert one.sidecar is not None
    file = one.place.directory / "sidecar" / "plans" / "plans.yaml"
    file.write_text(plans)
    keeper = one.sidecar.app.keeper
    assert one.sidecar.run(keeper.reload()), keeper.status()
