"""The kinds of objects that have pods, and which of a manifest's objects get the sidecar."""

import re
from typing import Final, NamedTuple

from sidecar.errors import ManifestError
from sidecar.kubernetes.names import INJECT
from sidecar.kubernetes.parts import Object, annotations, at, mapping, quoted, text

_TEMPLATE: Final = ("spec", "template")
TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}
_GROUPS: Final = {
    "Deployment": "apps", "StatefulSet": "apps", "DaemonSet": "apps",
    "Job": "batch", "CronJob": "batch", "Pod": "",
}  # fmt: skip
KINDS: Final = "Deployment, StatefulSet, DaemonSet, Job, CronJob or Pod"
_OWNER_SUFFIX: Final = re.compile(r"-[0-9]{8,12}")  # of a CronJob's Job: minutes since 1970


class Workload(NamedTuple):
    """An object with pods: where it is in the manifest, and its pod template."""

    position: int  # of the object in the manifest
    kind: str
    name: str
    namespace: str | None
    template: Object
    place: str  # of the template

    def is_called(self, wanted: str) -> bool:
        """Whether `wanted` is KIND/NAME, or only NAME."""
        kind, slash, name = wanted.rpartition("/")
        return name == self.name and (not slash or kind.lower() == self.kind.lower())


def is_workload(one: Object) -> bool:
    """Whether an object has pods, and is of a kind of Kubernetes itself."""
    group, slash, _ = str(one.get("apiVersion")).rpartition("/")
    kind = one.get("kind")
    return kind in _GROUPS and _GROUPS[kind] == (group if slash else "")


def workload_of(one: Object, index: int, file: str) -> Workload:
    """A workload. Raises ManifestError if parts above its template are missing."""
    kind = one["kind"]
    metadata = mapping(one, "metadata", f"{file}: {kind}")
    name = metadata.get("name") or str(metadata.get("generateName") or "").rstrip("-")
    if not isinstance(name, str) or not name:
        raise ManifestError(f"{file}: {kind}: metadata.name is missing; write it")
    place = f"{file}: {kind} {name}"
    template, keys = one, TEMPLATES[kind]
    for depth, key in enumerate(keys):
        template = mapping(template, key, at(place, *keys[:depth]))
    if not template:
        raise ManifestError(f"{at(place, *keys)}: is missing; write it")
    namespace = (
        text(metadata, "namespace", at(place, "metadata")) if metadata.get("namespace") else None
    )
    return Workload(index, kind, name, namespace, template, at(place, *keys))


def with_template(one: Object, template: Object) -> Object:
    """The object with another pod template."""
    return _replace(one, TEMPLATES[one["kind"]], template)


def _replace(part: Object, keys: tuple[str, ...], value: Object) -> Object:
    if not keys:
        return value
    return {**part, keys[0]: _replace(part[keys[0]], keys[1:], value)}


def choose(workloads: list[Workload], only: list[str], file: str) -> list[Workload]:
    """The workloads that get the sidecar: those named, else those annotated, else the only one.

    Raises ManifestError if none or not clearly one is meant.
    """
    if not workloads:
        raise ManifestError(f"{file}: there is nothing to inject into; give a {KINDS}")
    for wanted in only:
        if not any(one.is_called(wanted) for one in workloads):
            raise ManifestError(f"{file}: {quoted(wanted)} is not in it; set --only KIND/NAME")
    if only:
        return [one for one in workloads if any(one.is_called(wanted) for wanted in only)]
    wishes = [annotations(one.template, one.place).get(INJECT) for one in workloads]
    annotated = [one for one, wish in zip(workloads, wishes, strict=True) if wish == "true"]
    if annotated:
        return annotated
    left = [one for one, wish in zip(workloads, wishes, strict=True) if wish != "false"]
    if len(left) == 1:
        return left
    if not left:
        raise ManifestError(f'{file}: {INJECT} is "false" everywhere; remove it or set --only')
    names = ", ".join(f"{one.kind}/{one.name}" for one in left[:10])
    raise ManifestError(f"{file}: there are several workloads ({names}); set --only KIND/NAME")


def owner_of(pod: Object) -> str:
    """The workload of a pod that a controller creates: the Deployment, not its ReplicaSet."""
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            name = str(owner.get("name"))
            if owner.get("kind") == "ReplicaSet":
                return name.removesuffix(f"-{labels.get('pod-template-hash')}")
            if owner.get("kind") == "Job":
                return _OWNER_SUFFIX.sub("", name) if _OWNER_SUFFIX.search(name[-13:]) else name
            return name
    return str(metadata.get("name") or str(metadata.get("generateName") or "pod").rstrip("-"))
