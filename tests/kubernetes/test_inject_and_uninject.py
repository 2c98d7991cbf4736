"""Properties of the patch, for generated manifests of every kind."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.kubernetes import documents
from sidecar.kubernetes.manifests import inject, uninject
from tests.support.manifests import OPTIONS, Object, manifests, pod_of

OTHER = replace(
    OPTIONS, plans="others", image="other:2", port="7001", control_port="7002", sinks="redis",
    stop_delay="0", memory="1Gi", env={"SIDECAR_DRAIN_TIMEOUT_S": "90"},
)  # fmt: skip
PLANS = "version: 1\nplans: {}\n"
Manifest = tuple[list[Object], str]


def injected(manifest: Manifest, options: Any = OPTIONS, **more: Any) -> list[Object]:
    """The documents with the sidecar; the example is dropped if a port or name is in use."""
    given_documents, api_port = manifest
    try:
        chosen = replace(options, api_port=api_port)
        return inject(given_documents, chosen, file="f", **more).documents
    except ManifestError as error:
        assert "rename this one" in str(error) or "in use" in str(error)
        assume(False)
        raise


def objects(documents_: list[Object]) -> list[Object]:
    return [one for document in documents_ for one in document.get("items", [document])]


@given(manifests())
def test_uninject_restores_what_inject_was_given(manifest: Manifest) -> None:
    before = copy.deepcopy(manifest[0])
    result = injected(manifest)
    assert manifest[0] == before, "the arguments stay as they were"
    assert result != before
    assert uninject(result, file="f").documents == before


@given(manifests())
def test_a_second_inject_changes_nothing(manifest: Manifest) -> None:
    once = injected(manifest, plan_file=PLANS)
    assert injected((once, manifest[1]), plan_file=PLANS) == once


@given(manifests())
def test_new_options_apply_as_if_to_the_original(manifest: Manifest) -> None:
    first = injected(manifest, plan_file=PLANS)
    assert injected((first, manifest[1]), OTHER) == injected(manifest, OTHER)


@given(manifests())
def test_uninject_leaves_a_manifest_without_sidecar_as_it_is(manifest: Manifest) -> None:
    patched = uninject(manifest[0], file="f")
    assert patched.documents == manifest[0]
    assert patched.notes == ["f: no object has the sidecar"]


@given(manifests())
def test_the_manifest_survives_its_text(manifest: Manifest) -> None:
    result = injected(manifest)
    assert documents.read(documents.write(result).encode(), "f") == result


@given(manifests())
def test_ports_and_their_names_are_unique_in_the_pod(manifest: Manifest) -> None:
    pod = pod_of(next(one for one in objects(injected(manifest)) if one["kind"] != "Service"))
    spec = pod["spec"]
    ports = [p for c in spec["containers"] + spec["initContainers"] for p in c.get("ports", ())]
    numbers = [port["containerPort"] for port in ports]
    names = [port["name"] for port in ports if "name" in port]
    assert len(set(numbers)) == len(numbers)
    assert len(set(names)) == len(names)


@given(manifests())
def test_probes_of_the_api_still_reach_the_api(manifest: Manifest) -> None:
    result = injected(manifest)
    for one in objects(result):
        if one["kind"] == "Service":
            continue
        for container in pod_of(one)["spec"]["containers"]:
            names = {port.get("name") for port in container.get("ports", ())}
            numbers = {port["containerPort"] for port in container.get("ports", ())}
            for name, probe in container.items():
                if name.endswith("Probe"):
                    (action,) = (value for value in probe.values() if isinstance(value, dict))
                    assert action["port"] in names | numbers, "a port of its own container"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70_000) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["name", "ports", "containerPort", "httpGet", "port", "x"]), inner,
        max_size=2,
    ),
    max_leaves=5,
)  # fmt: skip


def slots(part: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a manifest: the mapping or list that has it, and its key."""
    for key in list(part) if isinstance(part, dict) else range(len(part)):
        yield part, key
        if isinstance(part[key], (dict, list)):
            yield from slots(part[key])


@settings(max_examples=300)
@given(manifests(), st.booleans(), st.data())
def test_a_damaged_manifest_is_patched_or_refused_with_its_place(
    manifest: Manifest, before: bool, data: st.DataObject
) -> None:
    damaged, api_port = manifest
    options = replace(OPTIONS, api_port=api_port)
    try:
        if not before:  # damage what inject has made
            damaged = inject(damaged, options, file="f").documents
        part, key = data.draw(st.sampled_from(list(slots(damaged[0]))))
        part[key] = data.draw(values)
        uninject(damaged, file="f")
        inject(damaged, options, file="f")
    except ManifestError as error:
        assert str(error).startswith("f: ")
        assert "; " in str(error)
