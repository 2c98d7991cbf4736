"""The chart and `sidecar inject` give a pod the same container, volumes and times."""

from typing import Any

import helm_python
import pytest

from sidecar.kubernetes.container import ContainerSpec, sidecar_container, sidecar_volumes
from tests.support.charts import objects, pod_specs, rendered

SPEC = ContainerSpec(
    plans="shop-plans",
    api_port=3000,
    workload="shop",
    namespace="prod",
    redis_secret="shop-redis",
    sinks="redis",
)


@pytest.fixture(scope="module")
def pod(shop: helm_python.Chart) -> dict[str, Any]:
    """The pod of the example application."""
    [(_, spec)] = pod_specs(objects(rendered(shop, {}, name="shop")))
    return spec


def test_the_template_renders_the_container_that_inject_adds(pod: dict[str, Any]) -> None:
    [rendered_container] = pod["initContainers"]
    assert rendered_container == sidecar_container(SPEC)


def test_the_template_renders_the_volumes_that_inject_adds(pod: dict[str, Any]) -> None:
    assert pod["volumes"] == sidecar_volumes(SPEC)
