"""The port of the API in a pod, and the ports that are left for the sidecar.

A Service sends to a named port of whichever container has the name. So the sidecar takes the name
of the API's port over, and each pod's Service finds the sidecar from the pod's first moment on.
"""

import copy
from typing import Any, Final, NamedTuple

from sidecar.errors import ManifestError
from sidecar.kubernetes.container import CONTROL, PORT
from sidecar.kubernetes.names import CONTROL_PORT, DATA_PORT, PREFIX
from sidecar.kubernetes.options import Options
from sidecar.kubernetes.parts import Object, at, containers, items, quoted

APART: Final = 10_000  # from a default port that the pod uses to the one that is used instead
_MOVED: Final = ("name", "hostPort", "hostIP")
_HANDLERS: Final = (
    ("startupProbe",), ("readinessProbe",), ("livenessProbe",),
    ("lifecycle", "postStart"), ("lifecycle", "preStop"),
)  # fmt: skip
_ACTIONS: Final = ("httpGet", "tcpSocket")


class Declared(NamedTuple):
    """A port that a container declares. `place` is the container's."""

    list: str  # of the containers
    container: int
    position: int  # in the container's list
    number: int
    name: str | None
    protocol: str
    place: str


class Ports(NamedTuple):
    """The ports that a pod has for the sidecar, and the name of its data port."""

    data: int
    control: int
    data_name: str


def declared(spec: Object, place: str) -> list[Declared]:
    """Every port of a pod, whose shape is checked."""
    found = []
    for key, number, container in containers(spec, place):
        where = at(place, key, number)
        for index, port in enumerate(items(container, "ports", where)):
            name, protocol = port.get("name") or None, port.get("protocol") or "TCP"
            found.append(Declared(key, number, index, port["containerPort"], name, protocol, where))
    return found


def api_port(ports: list[Declared], wanted: str | None, place: str) -> Declared:
    """The API's port: the one that is `wanted`, or the only one. Raises ManifestError."""
    choice = f"set --api-port or the annotation {PREFIX}api-port"
    candidates = [port for port in ports if port.list == "containers" and port.protocol == "TCP"]
    if wanted is not None:
        candidates = [p for p in candidates if wanted in (str(p.number), p.name)]
        if not candidates:
            raise ManifestError(
                f"{at(place, 'containers')}: no container has the TCP port {quoted(wanted)}; "
                f"add it to the container's ports, or {choice}"
            )
        return candidates[0]
    if not candidates:
        raise ManifestError(
            f"{at(place, 'containers')}: no container has a TCP port; add the API's port to the "
            "container's ports"
        )
    if len(candidates) > 1:
        numbers = ", ".join(str(port.number) for port in candidates[:10])
        raise ManifestError(
            f"{at(place, 'containers')}: there are several ports ({numbers}); {choice}"
        )
    return candidates[0]


def free_ports(ports: list[Declared], api: Declared, options: Options) -> Ports:
    """The sidecar's ports. Raises ManifestError if one of them, or its name, is in use."""
    used = {port.number: port.place for port in ports}
    data = _free(used, options.port, PORT, "port")
    both = f"{api.place}: the sidecar's data port"
    control = _free({**used, data: both}, options.control_port, CONTROL, "control-port")
    name = api.name or DATA_PORT
    for port in ports:
        if port is not api and port.name in (name, CONTROL_PORT):
            raise ManifestError(
                f"{at(port.place, 'ports', port.position)}.name: {quoted(port.name)} is a name "
                "that a port of the sidecar needs; rename this one"
            )
    if name == CONTROL_PORT:
        raise ManifestError(
            f"{at(api.place, 'ports', api.position)}.name: {quoted(name)} is the name of the "
            "sidecar's control port; rename this one"
        )
    return Ports(data, control, name)


def _free(used: dict[int, str], chosen: str | None, default: int, flag: str) -> int:
    if chosen is None:
        return default if default not in used else default + APART
    number = int(chosen)
    if number in used:
        raise ManifestError(
            f"{used[number]}: the port {number} is in use here; set another with --{flag} or the "
            f"annotation {PREFIX}{flag}"
        )
    return number


def take_over(spec: Object, api: Declared) -> tuple[Object, Object, list[str]]:
    """Move name and host port from the API's port to the sidecar.

    Returns the pod spec without them, what was moved, and the API's probes and hooks that used the
    name: they have the number now. On the host's network, the host port stays with the API.
    """
    spec = copy.deepcopy(spec)
    container = spec[api.list][api.container]
    port = container["ports"][api.position]
    keys = _MOVED[:1] if spec.get("hostNetwork") else _MOVED
    moved = {key: port.pop(key) for key in keys if port.get(key)}
    renamed = _set_port(container, moved.get("name"), api.number)
    return spec, moved, renamed


def give_back(container: Object, number: int, moved: Object, renamed: list[str]) -> None:
    """Undo `take_over` on a container, as far as it still has that port. Changes the container."""
    for port in container.get("ports") or ():
        if port.get("containerPort") == number and port.get("protocol") in (None, "TCP"):
            port.update({key: value for key, value in moved.items() if key not in port})
            break
    for path in renamed:
        action = _action(container, path.split("."))
        if action is not None and action.get("port") == number and "name" in moved:
            action["port"] = moved["name"]


def _set_port(container: Object, name: str | None, number: int) -> list[str]:
    """Replace the name of a port in probes and hooks; return their paths."""
    replaced = []
    for handler in _HANDLERS:
        for kind in _ACTIONS:
            path = [*handler, kind]
            action = _action(container, path)
            if name is not None and action is not None and action.get("port") == name:
                action["port"] = number
                replaced.append(".".join(path))
    return replaced


def _action(container: Object, path: list[str]) -> Object | None:
    part: Any = container
    for key in path:
        part = part.get(key) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else None
