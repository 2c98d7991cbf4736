"""The shapes that the patch relies on, checked before it begins: a manifest is untrusted text."""

from typing import Any, Final

from sidecar.errors import ManifestError
from sidecar.kubernetes.parts import Object, annotations, at, containers, items, mapping

_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
_HOOKS: Final = ("postStart", "preStop")
_ACTIONS: Final = ("httpGet", "tcpSocket")


def check_metadata(one: Object, place: str) -> None:
    """Raise ManifestError if the metadata of an object or template is not as it has to be."""
    metadata, where = mapping(one, "metadata", place), at(place, "metadata")
    for key in ("name", "namespace", "generateName"):
        _check(metadata, key, str, where)
    for name, value in mapping(metadata, "labels", where).items():
        if not isinstance(value, str):
            raise ManifestError(f"{at(where, 'labels', name)}: is not a string; put it in quotes")
    annotations(one, place)
    items(metadata, "ownerReferences", where)


def check_pod(template: Object, place: str) -> None:
    """Raise ManifestError if a part of the template that the patch reads has another shape."""
    check_metadata(template, place)
    spec, where = mapping(template, "spec", place), at(place, "spec")
    _check(mapping(spec, "os", where), "name", str, at(where, "os"))
    mapping(spec, "nodeSelector", where)
    _check(spec, "hostNetwork", bool, where)
    _check(spec, "terminationGracePeriodSeconds", int, where)
    for index, volume in enumerate(items(spec, "volumes", where)):
        _check(volume, "name", str, at(where, "volumes", index))
    for key, index, container in containers(spec, where):
        _check_container(container, at(where, key, index))


def _check_container(container: Object, place: str) -> None:
    for index, port in enumerate(items(container, "ports", place)):
        where = at(place, "ports", index)
        for key, kind in (("name", str), ("protocol", str), ("hostIP", str), ("hostPort", int)):
            _check(port, key, kind, where)
        number = port.get("containerPort")
        if type(number) is not int or not 1 <= number <= 65_535:
            raise ManifestError(
                f"{at(where, 'containerPort')}: is not a port; write a number from 1 to 65535"
            )
    lifecycle = mapping(container, "lifecycle", place)
    handlers = [(name, mapping(container, name, place)) for name in _PROBES]
    handlers += [(name, mapping(lifecycle, name, at(place, "lifecycle"))) for name in _HOOKS]
    for name, handler in handlers:
        for action in _ACTIONS:
            mapping(handler, action, at(place, name))


def check_service(service: Object, place: str) -> None:
    """Raise ManifestError if a part of the Service that the patch reads has another shape."""
    spec, where = mapping(service, "spec", place), at(place, "spec")
    for key, value in mapping(spec, "selector", where).items():
        if not isinstance(value, str):
            raise ManifestError(f"{at(where, 'selector', key)}: is not a string; put it in quotes")
    for index, port in enumerate(items(spec, "ports", where)):
        _check(port, "protocol", str, at(where, "ports", index))
        if type(port.get("port")) is not int:
            raise ManifestError(f"{at(where, 'ports', index)}.port: is not a number; write one")


def _check(parent: Object, key: str, kind: type, place: str) -> None:
    value: Any = parent.get(key)
    if value is not None and type(value) is not kind:
        words = {str: "a string; put it in quotes", int: "a number; write one"}
        expected = words.get(kind, "a boolean; write true or false")
        raise ManifestError(f"{at(place, key)}: is not {expected}")
