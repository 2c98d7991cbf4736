"""Answers to the API server's admission reviews: which pods get the sidecar, by annotation.

It fails open: a pod that cannot have the sidecar is admitted as it is, with a warning.
"""

import base64
import json
from dataclasses import replace
from typing import Any, Final, NamedTuple

from sidecar.errors import ManifestError
from sidecar.kubernetes.json_patch import json_patch
from sidecar.kubernetes.names import INJECT
from sidecar.kubernetes.options import Options, options_of
from sidecar.kubernetes.parts import Object, annotations
from sidecar.kubernetes.pod import inject_pod, is_injected
from sidecar.kubernetes.shapes import check_pod
from sidecar.kubernetes.workloads import TEMPLATES, is_workload, owner_of, workload_of

API_VERSION: Final = "admission.k8s.io/v1"
LONGEST_WARNING: Final = 250  # the API server cuts longer ones
_POD: Final = "pod"
PATCHED: Final = "patched"
UNCHANGED: Final = "unchanged"
REFUSED: Final = "refused"
FAILED: Final = "failed"
RESULTS: Final = (PATCHED, UNCHANGED, REFUSED, FAILED)
OTHER: Final = "other"
KINDS: Final = (*TEMPLATES, OTHER)


class Request(NamedTuple):
    """The part of a review that the answer depends on."""

    uid: str
    namespace: str | None
    object: Object

    @property
    def kind(self) -> str:
        """The kind of the object, one of KINDS."""
        return str(self.object["kind"]) if is_workload(self.object) else OTHER


class Verdict(NamedTuple):
    """An answer: one of RESULTS, the workload, why it was refused, and the review to send."""

    result: str
    workload: str
    error: str
    review: Object


def read_review(body: bytes) -> Request:
    """The request of an AdmissionReview. Raises ManifestError if it is not one."""
    try:
        review = json.loads(body)
        request = review["request"]
        uid, what = request["uid"], request.get("object")
        namespace = request.get("namespace") or None
        sound = review["apiVersion"] == API_VERSION and isinstance(uid, str) and 0 < len(uid) <= 253
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound or not isinstance(namespace, str | None):
        raise ManifestError(f"the body is not an AdmissionReview; send one of {API_VERSION}")
    return Request(uid, namespace, what if isinstance(what, dict) else {})


def answer(request: Request, defaults: Options) -> Verdict:
    """The verdict on a request. `defaults` apply where the pod's annotations are silent."""
    if request.kind == OTHER:
        return _verdict(request, UNCHANGED, "")
    if request.kind == "Pod":
        return _pod(request, defaults)
    return _template(request, defaults)


def failure(request: Request) -> Verdict:
    """The verdict if the answer failed: the object is admitted as it is."""
    return _verdict(request, FAILED, "", "internal error; see the log of the webhook")


def _pod(request: Request, defaults: Options) -> Verdict:
    pod, name = request.object, ""
    try:
        check_pod(pod, _POD)
        name = owner_of(pod)
        if _is_left_alone(pod, _POD):
            return _verdict(request, UNCHANGED, name)
        patched = _patched(pod, request, defaults, name)
    except ManifestError as error:
        return _verdict(request, REFUSED, name, f"admitted without the sidecar: {error}")
    return _verdict(request, PATCHED, name, patch=list(json_patch(pod, patched)))


def _template(request: Request, defaults: Options) -> Verdict:
    """Only check the template: its pods are patched, so that it stays what its author applies."""
    name = ""
    try:
        workload = workload_of(request.object, 0, "object")
        name = workload.name
        if INJECT in annotations(request.object, "object") and INJECT not in annotations(
            workload.template, _POD
        ):
            raise ManifestError(f"{INJECT} is on the {request.kind}; move it to the pod template")
        if not _is_left_alone(workload.template, _POD):
            _patched(workload.template, request, defaults, name)
    except ManifestError as error:
        return _verdict(request, REFUSED, name, f"its pods will not have the sidecar: {error}")
    return _verdict(request, UNCHANGED, name)


def _is_left_alone(pod: Object, place: str) -> bool:
    """Whether the pod is not annotated, or has the sidecar already."""
    return annotations(pod, place).get(INJECT, "false") == "false" or is_injected(pod, place)


def _patched(pod: Object, request: Request, defaults: Options, name: str) -> Object:
    options = options_of(annotations(pod, _POD), f"{_POD}: metadata.annotations").over(defaults)
    options = replace(options, namespace=request.namespace)
    return inject_pod(pod, options, name, _POD).template


def _verdict(
    request: Request,
    result: str,
    workload: str,
    error: str = "",
    patch: list[dict[str, Any]] | None = None,
) -> Verdict:
    response: Object = {"uid": request.uid, "allowed": True}
    if error:
        warning = f"quota-sidecar: {error}"
        cut = len(warning) > LONGEST_WARNING
        response["warnings"] = [warning[: LONGEST_WARNING - 1] + "…" if cut else warning]
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
    review = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    return Verdict(result, workload, error, review)
