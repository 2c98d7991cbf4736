"""The panels of a Grafana dashboard, with their queries as Prometheus evaluates them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
DASHBOARDS: Final = ROOT / "helm" / "sidecar" / "dashboards"


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel; `legend` has labels as `{{label}}`."""

    query: str
    legend: str

    def label(self, labels: dict[str, str]) -> str:
        """The legend of one series."""
        return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `x`, `y`, `width` and `height` are in Grafana's grid of 24 columns."""

    title: str
    kind: str  # row, stat or timeseries
    unit: str
    x: int
    y: int
    width: int
    height: int
    stacked: bool
    targets: tuple[Target, ...]


def read_panels(name: str) -> list[Panel]:
    """The panels of a dashboard, rows included, from top to bottom."""
    text = (DASHBOARDS / f"{name}.json").read_text()
    return [_panel(panel) for panel in json.loads(text)["panels"]]


def _panel(panel: dict[str, Any]) -> Panel:
    place = panel["gridPos"]
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    return Panel(
        panel["title"],
        panel["type"],
        defaults.get("unit", ""),
        place["x"],
        place["y"],
        place["w"],
        place["h"],
        defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
        tuple(Target(one["expr"], one["legendFormat"]) for one in panel.get("targets", ())),
    )


def with_variables(query: str, *, window: str, span: str) -> str:
    """A query with the dashboard's variables replaced, for all jobs and instances.

    `window` is Grafana's interval for rates, `span` the time that the dashboard shows.
    """
    replaced = query.replace("$__rate_interval", window).replace("$__range", span)
    return replaced.replace("$job", ".*").replace("$instance", ".*")


def queries(name: str) -> Iterator[tuple[str, Target]]:
    """The title and the query of each target of a dashboard."""
    for panel in read_panels(name):
        for target in panel.targets:
            yield panel.title, target
