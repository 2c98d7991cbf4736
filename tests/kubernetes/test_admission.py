"""Answers to admission reviews, and the JSON Patch in them."""

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.kubernetes.admission import answer, failure, read_review
from sidecar.kubernetes.json_patch import json_patch
from sidecar.kubernetes.manifests import inject
from sidecar.kubernetes.options import Options
from tests.support.json_patches import apply
from tests.support.manifests import API_VERSIONS, OPTIONS, Object, template, workload

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b/c", "d~e", "~1"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values, values)
def test_a_json_patch_leads_from_one_value_to_the_other(before: Any, after: Any) -> None:
    patched = apply(list(json_patch(before, after)), before)
    assert json.dumps(patched, sort_keys=True) == json.dumps(after, sort_keys=True)


def annotated(**more: str) -> Object:
    """A pod as a ReplicaSet makes it, annotated."""
    pod = template()
    notes = {"inject": "true", **more}
    pod["metadata"] |= {
        "generateName": "shop-5d8f6c7b9-",
        "labels": {"app": "shop", "pod-template-hash": "5d8f6c7b9"},
        "annotations": {
            f"quota-sidecar.dev/{name.replace('_', '-')}": value for name, value in notes.items()
        },
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-5d8f6c7b9",
             "controller": True, "uid": "1"}
        ],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", **pod}


def review(what: Object, **more: Any) -> bytes:
    request = {"uid": "7", "namespace": "prod", "operation": "CREATE", "object": what, **more}
    head = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    return json.dumps({**head, "request": request}).encode()


def respond(what: Object, defaults: Options = OPTIONS) -> Object:
    """The response to a review; it always allows the object."""
    verdict = answer(read_review(review(what)), defaults)
    assert verdict.review["apiVersion"] == "admission.k8s.io/v1"
    response: Object = verdict.review["response"]
    assert (response["uid"], response["allowed"]) == ("7", True)
    return response


def test_an_annotated_pod_gets_the_sidecar_of_its_deployment() -> None:
    pod = annotated(plans="sold")
    before = copy.deepcopy(pod)
    response = respond(pod)
    assert response["patchType"] == "JSONPatch"
    patched = apply(json.loads(base64.b64decode(response["patch"])), before)
    (sidecar,) = patched["spec"]["initContainers"]
    assert {"name": "SIDECAR_SOURCE", "value": "/sidecar/prod/shop"} in sidecar["env"]
    assert patched["spec"]["volumes"][0]["configMap"] == {"name": "sold"}
    assert patched["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    assert "warnings" not in response


@pytest.mark.parametrize(
    ("owner", "name", "workload_name"),
    [
        ("ReplicaSet", "shop-5d8f6c7b9", "shop"),
        ("StatefulSet", "shop-5d8f6c7b9", "shop-5d8f6c7b9"),
        ("Job", "nightly-29384640", "nightly"),
        ("Job", "import-2026", "import-2026"),
    ],
)
def test_events_have_the_workload_as_their_source_never_the_pod(
    owner: str, name: str, workload_name: str
) -> None:
    pod = annotated()
    pod["metadata"]["ownerReferences"][0] |= {"kind": owner, "name": name}
    assert answer(read_review(review(pod)), OPTIONS).workload == workload_name
    del pod["metadata"]["ownerReferences"]
    assert answer(read_review(review(pod)), OPTIONS).workload == "shop-5d8f6c7b9"


def test_other_pods_are_admitted_as_they_are() -> None:
    for pod in (
        annotated(inject="false"),
        {"apiVersion": "v1", "kind": "Pod", **template()},
        inject([annotated()], OPTIONS, file="f").documents[0],
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}},
        {},
    ):
        assert respond(pod) == {"uid": "7", "allowed": True}


@pytest.mark.parametrize(
    ("pod", "warning"),
    [
        (
            annotated(port="many"),
            'quota-sidecar: admitted without the sidecar: pod: metadata.annotations: '
            'quota-sidecar.dev/port: "many" is not a port; write a number from 1 to 65535',
        ),
        (
            annotated(inject="yes"),
            'quota-sidecar: admitted without the sidecar: pod: metadata.annotations: '
            'quota-sidecar.dev/inject: "yes" is not true or false; write "true"',
        ),
        (
            {**annotated(), "spec": {"containers": [{"name": "x", "image": "x"}]}},
            "quota-sidecar: admitted without the sidecar: pod: spec.containers: no container has a "
            "TCP port; add the API's port to the container's ports",
        ),
        (
            {**annotated(), "spec": "x"},
            "quota-sidecar: admitted without the sidecar: pod: spec: is not a mapping; write KEY: "
            "VALUE pairs",
        ),
    ],
    ids=["annotation", "inject", "no-port", "damaged"],
)  # fmt: skip
def test_a_pod_that_cannot_have_the_sidecar_is_admitted_with_a_warning(
    pod: Object, warning: str
) -> None:
    assert respond(pod) == {"uid": "7", "allowed": True, "warnings": [warning]}


def test_a_long_warning_is_cut_before_the_api_server_cuts_it() -> None:
    (warning,) = respond(annotated(**{"x" * 60: "1"}))["warnings"]
    assert len(warning) <= 250
    assert warning.endswith("…")


@pytest.mark.parametrize("kind", sorted(API_VERSIONS.keys() - {"Pod"}))
def test_a_workload_is_checked_when_it_is_applied_and_never_changed(kind: str) -> None:
    pod = template()
    pod["metadata"]["annotations"] = {"quota-sidecar.dev/inject": "true"}
    assert respond(workload(kind, pod)) == {"uid": "7", "allowed": True}
    pod["metadata"]["annotations"]["quota-sidecar.dev/cpu"] = "fast"
    assert respond(workload(kind, pod)) == {
        "uid": "7",
        "allowed": True,
        "warnings": [
            "quota-sidecar: its pods will not have the sidecar: pod: metadata.annotations: "
            'quota-sidecar.dev/cpu: "fast" is not a quantity; write it like 500m or 256Mi'
        ],
    }


def test_an_annotation_of_the_workload_instead_of_its_pods_is_reported() -> None:
    deployment = workload()
    deployment["metadata"]["annotations"] = {"quota-sidecar.dev/inject": "true"}
    assert respond(deployment)["warnings"] == [
        "quota-sidecar: its pods will not have the sidecar: quota-sidecar.dev/inject is on the "
        "Deployment; move it to the pod template"
    ]


def test_after_a_failure_the_object_is_admitted_with_a_warning() -> None:
    response = failure(read_review(review(annotated()))).review["response"]
    assert response["allowed"] is True
    assert response["warnings"] == ["quota-sidecar: internal error; see the log of the webhook"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"apiVersion": "admission.k8s.io/v1"}', b"[" * 100_000,
     review({}).replace(b"/v1", b"/v1beta1"), review({}).replace(b'"7"', b"7"),
     review({}, namespace=["x"])],
)  # fmt: skip
def test_a_body_that_is_not_a_review_is_refused(body: bytes) -> None:
    with pytest.raises(ManifestError, match="is not an AdmissionReview; send one of admission"):
        read_review(body)


@given(values)
def test_any_object_is_admitted(what: Any) -> None:
    pod = {**annotated(), "spec": what}
    respond(pod)
    respond({**annotated(), "metadata": what})
