"""The target ports of Services: to the sidecar, and back to the API."""

import copy
import json
from typing import Any, Final

from sidecar.errors import ManifestError
from sidecar.kubernetes.names import INJECTED, ORIGINAL, STATUS
from sidecar.kubernetes.parts import Object, annotations, at, items, mapping
from sidecar.kubernetes.pod import Injected
from sidecar.kubernetes.shapes import check_service

_MADE: Final = "made"
_PORTS: Final = "ports"


def is_service(one: Object) -> bool:
    """Whether an object is a Service of Kubernetes itself."""
    return one.get("kind") == "Service" and one.get("apiVersion") == "v1"


def selects(service: Object, labels: Object, place: str) -> bool:
    """Whether a Service sends to pods with these labels. Raises ManifestError."""
    check_service(service, place)
    selector = mapping(mapping(service, "spec", place), "selector", at(place, "spec"))
    return bool(selector) and selector.items() <= labels.items()


def is_headless(service: Object) -> bool:
    """Whether clients connect to the pods themselves, where no target port applies."""
    return (service.get("spec") or {}).get("clusterIP") == "None"


def move(service: Object, pods: list[Injected], place: str) -> Object:
    """The Service with its ports to an API sent to that API's sidecar; the rest as it was.

    Only ports by number change: the sidecar has the name of the API's port. Raises ManifestError.
    """
    check_service(service, place)
    service = copy.deepcopy(service)
    names = _names(pods, place)
    spec = mapping(service, "spec", place)
    before: list[list[Any]] = []
    for port in items(spec, "ports", at(place, "spec")):
        target = port.get("targetPort")
        number = port["port"] if target is None else target
        if port.get("protocol") in (None, "TCP") and type(number) is int and number in names:
            before.append([port["port"], target])
            port["targetPort"] = names[number]
    if before:
        made = _note(service, STATUS, INJECTED)
        record = {_PORTS: before, _MADE: made}
        _note(service, ORIGINAL, json.dumps(record, separators=(",", ":")))
    return service


def _names(pods: list[Injected], place: str) -> dict[int, str]:
    """The name of the sidecar's port by the number of the API's port."""
    names: dict[int, str] = {}
    for pod in pods:
        if names.setdefault(pod.api, pod.port_name) != pod.port_name:
            raise ManifestError(
                f"{place}: it selects workloads whose port {pod.api} has different names "
                f"({names[pod.api]}, {pod.port_name}); give it one name"
            )
    return names


def restore(service: Object, place: str) -> Object:
    """Undo `move`; a copy of a Service that was not moved. Raises ManifestError."""
    service = copy.deepcopy(service)
    notes = annotations(service, place)
    if notes.get(STATUS) != INJECTED:
        return service
    ports, made = _read(notes.get(ORIGINAL, ""), place)
    for port in items(mapping(service, "spec", place), "ports", at(place, "spec")):
        for number, target in ports:
            if port.get("port") == number and port.get("protocol") in (None, "TCP"):
                if target is None:
                    port.pop("targetPort", None)
                else:
                    port["targetPort"] = target
    for name in (STATUS, ORIGINAL):
        notes.pop(name, None)
    if not notes and "annotations" in made:
        del service["metadata"]["annotations"]
    return service


def _note(service: Object, name: str, value: str) -> list[str]:
    """Set an annotation; return what was missing for it."""
    metadata = service.setdefault("metadata", {})
    made = ["annotations"] if metadata.get("annotations") is None else []
    metadata["annotations"] = {**(metadata.get("annotations") or {}), name: value}
    return made


def _read(record: str, place: str) -> tuple[list[list[Any]], list[str]]:
    try:
        value = json.loads(record)
        ports, made = value[_PORTS], value[_MADE]
        if all(_is_port(*port) for port in ports) and isinstance(made, list):
            return ports, made
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # what follows says what is wrong
    raise ManifestError(
        f"{place}: metadata.annotations: {ORIGINAL} is missing or damaged; restore the manifest "
        "from before sidecar inject"
    )


def _is_port(number: object, target: object) -> bool:
    return type(number) is int and (target is None or type(target) is int)
