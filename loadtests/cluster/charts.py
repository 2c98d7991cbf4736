"""The Helm chart, rendered by Helm's own engine."""

import importlib
from pathlib import Path
from typing import Any, Final

from loadtests.cluster.objects import NAMESPACE, Object
from sidecar.kubernetes import documents

CHART: Final = Path(__file__).parents[2] / "helm" / "sidecar"


def rendered(chart: Path, values: Path) -> list[Object]:
    """The objects of a chart with a file of values."""
    helm: Any = importlib.import_module("helm_python")
    with helm.Chart.load(chart) as loaded:
        texts = loaded.render(
            helm.values_from_yaml(values.read_text()), name="gw", namespace=NAMESPACE
        )
    return [
        one
        for name, text in sorted(texts.items())
        if not name.endswith("NOTES.txt")
        for one in documents.read(text.encode(), name)
    ]
