"""The Helm chart, rendered by Helm's own engine."""

import base64
import importlib
from pathlib import Path
from typing import Any, Final

from loadtests.cluster.objects import NAMESPACE, Object
from sidecar.kubernetes import documents

CHART: Final = Path(__file__).parents[2] / "helm" / "sidecar"
EXAMPLES: Final = CHART / "ci"


def rendered(values: Path, namespace: str = NAMESPACE) -> list[Object]:
    """The objects of the chart with a file of values."""
    helm: Any = importlib.import_module("helm_python")
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(
            helm.values_from_yaml(values.read_text()), name="gw", namespace=namespace
        )
    return [
        one
        for name, text in sorted(texts.items())
        if not name.endswith("NOTES.txt")
        for one in documents.read(text.encode(), name)
    ]


def registration(port: int, ca: Path) -> Object:
    """The chart's registration of the webhook, which runs here instead of behind a Service."""
    client = {
        "url": f"https://127.0.0.1:{port}/mutate",
        "caBundle": base64.b64encode(ca.read_bytes()).decode(),
    }
    (found,) = (
        one
        for one in rendered(EXAMPLES / "webhook.yaml", "quota")
        if one["kind"] == "MutatingWebhookConfiguration"
    )
    webhooks = [{**one, "clientConfig": client} for one in found["webhooks"]]
    return {**found, "webhooks": webhooks}
