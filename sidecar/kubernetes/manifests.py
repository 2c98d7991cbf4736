"""The patch of whole manifests: lists of objects, of which some get the sidecar.

A manifest is a list of documents, as in a file. A document of a kind such as List contains objects
of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from sidecar.errors import ManifestError
from sidecar.kubernetes.names import INJECTED, PLANS_KEY, SPOOL_VOLUME, STATUS
from sidecar.kubernetes.options import Options, options_of
from sidecar.kubernetes.parts import Object, annotations, at, items, mapping
from sidecar.kubernetes.pod import Injected, inject_pod, is_injected, uninject_pod
from sidecar.kubernetes.services import is_headless, is_service, move, restore, selects
from sidecar.kubernetes.shapes import check_metadata
from sidecar.kubernetes.workloads import (
    Workload,
    choose,
    is_workload,
    with_template,
    workload_of,
)

MOST_PLAN_BYTES: Final = 1_000_000  # of a ConfigMap, which has at most 1 MiB
MOST_APPLIED_BYTES: Final = 250_000  # that `kubectl apply` can repeat in an annotation
SUFFIX: Final = "-plans"
_LONGEST_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class Patched:
    """The new documents, and what a person should know about them, one line each."""

    documents: list[Object]
    notes: list[str]


class _Done(NamedTuple):
    workload: Workload
    pod: Injected


def inject(
    documents: list[Object],
    options: Options,
    *,
    file: str,
    plan_file: str | None = None,
    only: list[str] | None = None,
) -> Patched:
    """The documents with the sidecar in their workloads, and Services that send to it.

    `file` names the manifest in messages. `plan_file` is the text of a plan file, which becomes a
    ConfigMap per workload. `only` names workloads, as KIND/NAME or NAME. Raises ManifestError.
    """
    documents = [_checked(one, file) for one in uninject(documents, file=file).documents]
    every = [one for document in documents for one in _objects(document)]
    found = [workload_of(one, i, file) for i, one in enumerate(every) if is_workload(one)]
    done = [_inject(one, options, plan_file) for one in choose(found, only or [], file)]
    for workload, pod in done:
        every[workload.position] = with_template(every[workload.position], pod.template)
    notes = [note for one in done for note in _notes_of(one, options)]
    notes += [note for one in done for note in _notes_of_claim(every[one.workload.position], one)]
    reached: set[str] = set()
    for index, one in enumerate(every):
        if is_service(one):
            every[index] = _moved(one, done, file, notes, reached)
    notes += [_without_service(one) for one in done if _lacks_service(one, reached)]
    maps = [_config_map(one.workload, plan_file, notes) for one in done] if plan_file else []
    return Patched(_with_objects(documents, every, maps), notes)


def uninject(documents: list[Object], *, file: str) -> Patched:
    """The documents without any sidecar, as they were before `inject`. Raises ManifestError."""
    removed = 0

    def restored(one: Object) -> Object | None:
        nonlocal removed
        if is_workload(one):
            workload = workload_of(one, 0, file)
            removed += is_injected(workload.template, workload.place)
            return with_template(one, uninject_pod(workload.template, workload.place))
        if is_service(one):
            return restore(one, _place(one, file))
        return None if _is_our_config_map(one, file) else one

    results = [_map(_checked(one, file), restored) for one in documents]
    notes = [] if removed else [f"{file}: no object has the sidecar"]
    return Patched([one for one in results if one is not None], notes)


def _inject(workload: Workload, options: Options, plan_file: str | None) -> _Done:
    name = workload.name + SUFFIX if plan_file else None
    if name and len(name) > _LONGEST_NAME:
        raise ManifestError(f"{workload.place}: the name {name} is too long; shorten the name")
    place = at(workload.place, "metadata", "annotations")
    wished = options_of(annotations(workload.template, workload.place), place)
    chosen = replace(options, plans=name or options.plans).over(wished)
    if workload.namespace:
        chosen = replace(chosen, namespace=workload.namespace)
    return _Done(workload, inject_pod(workload.template, chosen, workload.name, workload.place))


def _notes_of(done: _Done, options: Options) -> list[str]:
    workload, pod = done
    subject = f"{workload.kind} {workload.name}"
    sinks = options_of(annotations(workload.template, workload.place), workload.place).sinks
    notes = [
        f'{subject}: its port "{pod.port_name}" ({pod.port}) is the sidecar\'s, in front of '
        f"port {pod.api}"
    ]
    if (options.sinks or sinks or options.env.get("SIDECAR_SINKS")) is None:
        notes.append(
            f"{subject}: without --sinks, usage events stay in the pod and are lost with it"
        )
    if workload.kind in ("Pod", "Job"):
        notes.append(
            f"{subject}: Kubernetes changes no running {workload.kind}; delete it before you apply"
        )
    return notes


def _notes_of_claim(workload: Object, done: _Done) -> list[str]:
    """A volume claim for the spool belongs to root, unless the pod has a group for its files."""
    place = done.workload.place
    spec = mapping(workload, "spec", place)
    claims = items(spec, "volumeClaimTemplates", at(place, "spec"))
    names = {mapping(one, "metadata", place).get("name") for one in claims}
    pod = mapping(done.pod.template, "spec", place)
    if SPOOL_VOLUME not in names or "fsGroup" in mapping(pod, "securityContext", place):
        return []
    return [
        f"{done.workload.kind} {done.workload.name}: the sidecar may not be allowed to write to "
        f"{SPOOL_VOLUME}; set fsGroup: 65532 in the pod's securityContext"
    ]


def _lacks_service(done: _Done, reached: set[str]) -> bool:
    return done.workload.place not in reached and done.workload.kind not in ("Job", "CronJob")


def _without_service(done: _Done) -> str:
    workload, pod = done
    return (
        f"{workload.kind} {workload.name}: the input has no Service of it; one that sends to port "
        f"{pod.api} by number bypasses the sidecar, so write targetPort: {pod.port_name}"
    )


def _moved(
    service: Object, done: list[_Done], file: str, notes: list[str], reached: set[str]
) -> Object:
    """The Service with its ports moved. Adds to `notes`, and places of workloads to `reached`."""
    place = _place(service, file)
    selected = [one for one in done if _sends_to(service, one.workload, one.pod, place)]
    pods = [one.pod for one in selected]
    reached.update(one.workload.place for one in selected)
    if pods and is_headless(service):
        notes.append(
            f"{place.partition(': ')[2]}: it is headless; clients that connect to port "
            f"{pods[0].api} of a pod bypass the sidecar"
        )
    return move(service, pods, place)


def _sends_to(service: Object, workload: Workload, pod: Injected, place: str) -> bool:
    """Whether a Service selects a workload. One without a namespace is in any."""
    metadata = mapping(service, "metadata", place)
    namespaces = {metadata.get("namespace"), workload.namespace} - {None}
    labels = mapping(mapping(pod.template, "metadata", workload.place), "labels", workload.place)
    return len(namespaces) < 2 and selects(service, labels, place)


def _config_map(workload: Workload, plan_file: str | None, notes: list[str]) -> Object:
    data = plan_file or ""
    size = len(data.encode())
    if size > MOST_PLAN_BYTES:
        raise ManifestError(
            f"--plans: {size:,} bytes do not fit into a ConfigMap; move accounts to Redis"
        )
    name = workload.name + SUFFIX
    if size > MOST_APPLIED_BYTES:
        notes.append(f"ConfigMap {name}: it is large; use kubectl apply --server-side")
    metadata: Object = {"name": name, "annotations": {STATUS: INJECTED}}
    if workload.namespace:
        metadata["namespace"] = workload.namespace
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {PLANS_KEY: data},
    }


def _is_our_config_map(one: Object, file: str) -> bool:
    if one.get("kind") != "ConfigMap" or one.get("apiVersion") != "v1":
        return False
    return annotations(one, _place(one, file)).get(STATUS) == INJECTED


def _place(one: Object, file: str) -> str:
    metadata = one.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{file}: {one.get('kind')} {name}"


def _is_list(document: Object) -> bool:
    return str(document.get("kind")).endswith("List") and "items" in document


def _checked(document: Object, file: str) -> Object:
    """The document, if it and each object in it has a kind. Raises ManifestError."""
    kind = _check_object(document, file)
    if not _is_list(document):
        return document
    inner = document["items"]
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise ManifestError(f"{file}: {kind}: items is not a list of objects; write one")
    for one in inner:
        _check_object(one, file)
        if _is_list(one):
            raise ManifestError(f"{file}: {kind}: there is a list in the list; take it out")
    return document


def _check_object(one: Object, file: str) -> str:
    kind, version = one.get("kind"), one.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str):
        raise ManifestError(
            f"{file}: an object has no apiVersion or kind; give a Kubernetes manifest"
        )
    if not _is_list(one):
        check_metadata(one, f"{file}: {kind}")
    return kind


def _objects(document: Object) -> list[Object]:
    return document["items"] if _is_list(document) else [document]


def _map(document: Object, change: Callable[[Object], Object | None]) -> Object | None:
    if not _is_list(document):
        return change(document)
    changed = [change(one) for one in document["items"]]
    return {**document, "items": [one for one in changed if one is not None]}


def _with_objects(documents: list[Any], every: list[Object], more: list[Object]) -> list[Object]:
    """The documents with these objects in place of their own; `more` first."""
    left = iter(every)
    result = []
    for document in documents:
        inner = [next(left) for _ in _objects(document)]
        result.append({**document, "items": inner} if _is_list(document) else inner[0])
    if len(result) == 1 and _is_list(result[0]):
        return [{**result[0], "items": [*more, *result[0]["items"]]}]
    return [*more, *result]
