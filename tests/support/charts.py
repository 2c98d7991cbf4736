"""The Helm charts of this repository, rendered by Helm's own engine without a cluster."""

import re
import shutil
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "sidecar"
SHOP = ROOT / "examples" / "helm" / "shop"
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
NOTES = "NOTES.txt"
Object = dict[str, Any]


def values_of(file: Path) -> dict[str, Any]:
    """The values in a file. YAML of Helm's kind: a number is not an octal one, no key repeats."""
    values: dict[str, Any] = helm_python.values_from_yaml(file.read_text())
    return values


def rendered(
    chart: helm_python.Chart, values: dict[str, Any], *, name: str = "gw", namespace: str = "prod"
) -> dict[str, str]:
    """The text of each template. Raises HelmError if the values or a template are wrong."""
    return chart.render(values, name=name, namespace=namespace)


def objects(texts: dict[str, str]) -> list[Object]:
    """The Kubernetes objects in rendered templates."""
    files = [text for name, text in sorted(texts.items()) if not name.endswith(NOTES)]
    return [one for text in files for one in yaml.safe_load_all(text) if one is not None]


def pod_specs(rendered_objects: list[Object]) -> list[tuple[str, Object]]:
    """(kind and name, spec) of each pod that the objects run."""
    found = []
    for one in rendered_objects:
        spec = (
            one["spec"]
            if one["kind"] == "Pod"
            else one.get("spec", {}).get("template", {}).get("spec")
        )
        if spec and "containers" in spec:
            found.append((f"{one['kind']} {one['metadata']['name']}", spec))
    return found


def only(rendered_objects: list[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind, with this end of its name."""
    [one] = [
        each
        for each in rendered_objects
        if each["kind"] == kind and each["metadata"]["name"].endswith(name)
    ]
    return one


def shop_with_dependency(directory: Path) -> Path:
    """The example chart with its dependency in place, as `helm dependency build` leaves it."""
    shop = directory / "shop"
    shutil.copytree(SHOP, shop)
    shutil.copytree(CHART, shop / "charts" / "quota-sidecar")
    return shop


def chart_with_samples(directory: Path, samples: Path) -> Path:
    """A copy of the chart whose dashboards and rules are the samples, which do not change."""
    chart = directory / "sidecar"
    shutil.copytree(CHART, chart)
    for folder, file in (("dashboards", "sample-dashboard.json"), ("rules", "sample-rules.yaml")):
        shutil.rmtree(chart / folder, ignore_errors=True)
        (chart / folder).mkdir()
        shutil.copy(samples / file, chart / folder)
    return chart


def without_certificates(text: str) -> str:
    """Rendered text in which certificates and keys that Helm makes are the same each time."""
    return re.sub(r"(?<=: )LS0tLS1CRUdJTi[A-Za-z0-9+/=]{400,}", "MADE-BY-HELM", text)
