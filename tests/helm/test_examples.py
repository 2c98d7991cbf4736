"""Each example of values renders objects that Kubernetes accepts, and that a person has reviewed.

`UPDATE_GOLDEN=1 pytest tests/helm/test_examples.py` writes the golden files anew: review the diff.
"""

import os
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from tests.support.charts import (
    CHART,
    EXAMPLES,
    NOTES,
    Object,
    objects,
    rendered,
    values_of,
    without_certificates,
)

GOLDEN = Path(__file__).parent / "golden"
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
OTHERS = {"monitoring.coreos.com/v1", "cert-manager.io/v1"}  # APIs that are not Kubernetes'


def stem(file: Path) -> str:
    return file.stem


def check_golden(name: str, texts: dict[str, str]) -> None:
    """Compare with the golden file, or write it."""
    parts = [f"# {path}\n{text.strip()}\n" for path, text in sorted(texts.items()) if text.strip()]
    text = without_certificates("\n".join(parts))
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), f"{file} differs: see the head of this test"


@pytest.mark.parametrize("example", EXAMPLES, ids=stem)
def test_an_example_renders_as_reviewed(sampled_chart: helm_python.Chart, example: Path) -> None:
    check_golden(example.stem, rendered(sampled_chart, values_of(example)))


def test_an_application_renders_as_reviewed(shop: helm_python.Chart) -> None:
    check_golden("shop", rendered(shop, {}, name="shop"))


def test_there_is_a_golden_file_for_each_example_and_no_other() -> None:
    names = {file.stem for file in GOLDEN.iterdir()}
    assert names == {file.stem for file in EXAMPLES} | {"shop"}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("example", [*EXAMPLES, None], ids=lambda one: one.stem if one else "shop")
def test_kubernetes_accepts_the_objects_of_an_example(
    chart: helm_python.Chart, shop: helm_python.Chart, example: Path | None, version: str
) -> None:
    texts = rendered(chart, values_of(example)) if example else rendered(shop, {})
    found = [one for one in objects(texts) if one["apiVersion"] not in OTHERS]
    assert found or example
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("example", ["production", "monitoring"])
def test_the_models_of_the_prometheus_operator_accept_the_objects_for_it(
    chart: helm_python.Chart, sampled_chart: helm_python.Chart, example: str
) -> None:
    """The models are generated from the operator's own definitions. They ignore unknown keys, so
    a key that they drop is an error here."""
    [file] = [one for one in EXAMPLES if one.stem == example]
    kinds = set()
    for source in (chart, sampled_chart):
        for one in objects(rendered(source, values_of(file))):
            if one["apiVersion"].startswith("monitoring.coreos.com/"):
                model = getattr(prometheus_operator, one["kind"]).model_validate(one)
                kept = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
                assert dropped(one["spec"], kept["spec"]) == []
                kinds.add(one["kind"])
    assert {"PodMonitor", "PrometheusRule"} <= kinds


def dropped(given: object, kept: object, path: str = "spec") -> list[str]:
    """Paths of keys in `given` that are missing in `kept`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        missing = [f"{path}.{key}" for key in given.keys() - kept.keys()]
        both = given.keys() & kept.keys()
        return missing + [
            at for key in both for at in dropped(given[key], kept[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list):
        pairs = enumerate(zip(given, kept, strict=True))
        return [at for index, (a, b) in pairs for at in dropped(a, b, f"{path}[{index}]")]
    return []


@pytest.mark.parametrize("example", EXAMPLES, ids=stem)
def test_helm_lint_has_no_complaint(example: Path) -> None:
    report = helm_python.lint(CHART, values_of(example), strict=True, kube_version="v1.34.0")
    assert [one for one in report["messages"] if one["severity"] > 1] == []


def names_of(found: list[Object]) -> list[str]:
    return [f"{one['kind']}/{one['metadata']['name']}" for one in found]


@pytest.mark.parametrize("example", EXAMPLES, ids=stem)
def test_no_two_objects_have_one_name(chart: helm_python.Chart, example: Path) -> None:
    found = names_of(objects(rendered(chart, values_of(example))))
    assert len(found) == len(set(found))
    assert NOTES not in "".join(found)
