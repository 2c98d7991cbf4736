"""A real Prometheus that scrapes one sidecar."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

_TIMEOUT_S: Final = 10.0
Series = tuple[dict[str, str], list[tuple[float, float]]]  # labels; times and values


def config(target: str, rules: Iterable[Path], *, every: str) -> str:
    """The configuration file, which is YAML."""
    return json.dumps(
        {
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {"job_name": "shop", "static_configs": [{"targets": [target]}]},
            ],
        }
    )


def command(program: str, directory: Path, port: int, text: str) -> list[str]:
    """The command that starts it, with its files in `directory`."""
    file = directory / "prometheus.yaml"
    file.write_text(text)
    return [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]


def ask(port: int, path: str, **parameters: str) -> Any:
    """The data of an answer of its HTTP API. Raises OSError if it does not answer."""
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return json.loads(answer.read())["data"]


def query(port: int, text: str) -> list[tuple[dict[str, str], float]]:
    """The series of an instant query, with their values."""
    rows = ask(port, "query", query=text)["result"]
    return [(row["metric"], float(row["value"][1])) for row in rows]


def exemplar_traces(port: int, text: str, start: float, end: float) -> set[str]:
    """The trace ids of the exemplars of a query."""
    rows = ask(port, "query_exemplars", query=text, start=str(start), end=str(end))
    return {one["labels"]["trace_id"] for row in rows for one in row["exemplars"]}


def query_range(port: int, text: str, start: float, end: float, step: float) -> list[Series]:
    """The series of a query over a time, in seconds since 1970."""
    rows = ask(port, "query_range", query=text, start=str(start), end=str(end), step=str(step))
    return [
        (row["metric"], [(float(at), float(value)) for at, value in row["values"]])
        for row in rows["result"]
    ]
