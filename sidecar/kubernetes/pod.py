"""The patch of a pod template: the sidecar goes in, and comes out again."""

import copy
import math
import re
from typing import Final, NamedTuple

from sidecar.errors import ManifestError
from sidecar.kubernetes.api_port import api_port, declared, free_ports, give_back, take_over
from sidecar.kubernetes.container import (
    IMAGE,
    ContainerSpec,
    sidecar_container,
    sidecar_volumes,
)
from sidecar.kubernetes.names import (
    CONTAINER,
    INJECTED,
    ORIGINAL,
    PLANS_VOLUME,
    PREFIX,
    SPOOL_VOLUME,
    STATUS,
)
from sidecar.kubernetes.options import Options
from sidecar.kubernetes.parts import Object, annotations, at, containers, items, mapping
from sidecar.kubernetes.shapes import check_pod
from sidecar.kubernetes.undo import Undo, read_undo

RESERVE_S: Final = 10  # to write and ship the last events
DEFAULT_GRACE_S: Final = 30  # of Kubernetes
_DRAIN: Final = (("SIDECAR_DRAIN_DELAY_S", 5.0), ("SIDECAR_DRAIN_TIMEOUT_S", 30.0))
_SECONDS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_OS: Final = "kubernetes.io/os"


class Injected(NamedTuple):
    """A pod template with the sidecar. `api` and `api_name` are the API's port."""

    template: Object
    api: int
    api_name: str | None
    port: int
    port_name: str


def is_injected(template: Object, place: str) -> bool:
    """Whether `inject_pod` made this template. Raises ManifestError."""
    return annotations(template, place).get(STATUS) == INJECTED


def inject_pod(template: Object, options: Options, workload: str, place: str) -> Injected:
    """The template with the sidecar in it, as if it never had another one.

    Raises ManifestError if the template is invalid, has no room, or `options` lack something.
    """
    template = uninject_pod(template, place)
    spec, where = mapping(template, "spec", place), at(place, "spec")
    _check_room(spec, where)
    ports = declared(spec, where)
    api = api_port(ports, options.api_port, where)
    free = free_ports(ports, api, options)
    spec, moved, renamed = take_over(spec, api)
    api_container = spec[api.list][api.container]
    exposed = {key: value for key, value in moved.items() if key != "name"}
    container = ContainerSpec(
        plans=_plans(options.plans, place),
        api_port=api.number,
        workload=workload,
        namespace=options.namespace,
        redis_secret=options.redis_secret if options.redis else _redis_secret(options, place),
        redis=options.redis,
        image=options.image or IMAGE,
        port=free.data,
        port_name=free.data_name,
        control_port=free.control,
        source=options.source,
        sinks=options.sinks,
        cpu=options.cpu,
        memory=options.memory,
        exposed=exposed,
        env=options.env,
    )
    made: list[str] = []
    stop_delay = _delay_stop(api_container, options, api.place, made)
    grace = _lengthen_grace(spec, options, stop_delay or 0)
    _append(spec, "initContainers", [sidecar_container(container)], made)
    _append(spec, "volumes", sidecar_volumes(container), made)
    metadata = _part(template, "metadata", made)
    notes = _part(metadata, "annotations", made)
    undo = Undo(api_container["name"], api.number, moved, renamed, grace, stop_delay, made)
    notes |= {STATUS: INJECTED, ORIGINAL: undo.text()}
    template["spec"] = spec
    return Injected(template, api.number, api.name, free.data, free.data_name)


def uninject_pod(template: Object, place: str) -> Object:
    """The template without the sidecar; a copy if it has none. Raises ManifestError."""
    check_pod(template, place)
    template = copy.deepcopy(template)
    if not is_injected(template, place):
        return template
    undo = read_undo(annotations(template, place), place)
    spec = mapping(template, "spec", place)
    for _, _, container in list(containers(spec, at(place, "spec"))):
        if container["name"] == undo.container:
            give_back(container, undo.port, undo.moved, undo.renamed)
            _stop_at_once(container, undo)
    _remove(spec, "initContainers", {CONTAINER}, undo)
    _remove(spec, "volumes", {PLANS_VOLUME, SPOOL_VOLUME}, undo)
    _restore_grace(spec, undo)
    metadata = template["metadata"]
    for name in (STATUS, ORIGINAL):
        metadata["annotations"].pop(name, None)
    _drop_if_made(metadata, "annotations", undo)
    _drop_if_made(template, "metadata", undo)
    return template


def _plans(value: str | None, place: str) -> str:
    if value is None:
        raise ManifestError(
            f"{place}: no plan file is given; set --plans FILE, --plans-config-map NAME or the "
            f"annotation {PREFIX}plans"
        )
    return value


def _redis_secret(options: Options, place: str) -> str:
    if options.redis_secret is None:
        raise ManifestError(
            f"{place}: no Secret with the URL of Redis is named; set --redis-secret or the "
            f"annotation {PREFIX}redis-secret"
        )
    return options.redis_secret


def _check_room(spec: Object, place: str) -> None:
    """Raise ManifestError if the pod is on Windows, or uses a name of the sidecar."""
    if not items(spec, "containers", place):
        raise ManifestError(f"{place}: there are no containers; the sidecar needs an API")
    if "windows" in (
        mapping(spec, "os", place).get("name"),
        mapping(spec, "nodeSelector", place).get(_OS),
    ):
        raise ManifestError(f"{place}: the pod runs on Windows; the sidecar needs Linux")
    for key, index, container in containers(spec, place):
        if container["name"] == CONTAINER:
            raise ManifestError(
                f"{at(place, key, index)}: this container is named {CONTAINER} and was not "
                "injected; rename or remove it"
            )
    for index, volume in enumerate(items(spec, "volumes", place)):
        if volume.get("name") in (PLANS_VOLUME, SPOOL_VOLUME):
            raise ManifestError(
                f"{at(place, 'volumes', index)}: this volume is named {volume['name']} and was "
                "not injected; rename or remove it"
            )


def _append(spec: Object, key: str, more: list[Object], made: list[str]) -> None:
    if spec.get(key) is None:
        made.append(key)
    spec[key] = [*(spec.get(key) or ()), *more]


def _remove(spec: Object, key: str, names: set[str], undo: Undo) -> None:
    if isinstance(spec.get(key), list):
        spec[key] = [one for one in spec[key] if one.get("name") not in names]
        _drop_if_made(spec, key, undo)


def _part(parent: Object, key: str, made: list[str]) -> Object:
    """The mapping at `key`, new if the key is missing."""
    if parent.get(key) is None:
        made.append(key)
        parent[key] = {}
    part: Object = parent[key]
    return part


def _drop_if_made(parent: Object, key: str, undo: Undo) -> None:
    if key in undo.made and parent.get(key) in ({}, []):
        del parent[key]


def _delay_stop(container: Object, options: Options, place: str, made: list[str]) -> int | None:
    """Let the API run on after its pod was ended; return for how many seconds.

    Kubernetes ends the API at once, and the sidecar after it, while clients still send requests.
    None: the container has a hook of its own, or no delay is wanted.
    """
    delay, _ = _drain(options)
    seconds = delay + 1 if options.stop_delay is None else int(options.stop_delay)
    if seconds == 0 or mapping(container, "lifecycle", place).get("preStop") is not None:
        return None
    _part(container, "lifecycle", made)["preStop"] = {"sleep": {"seconds": seconds}}
    return seconds


def _stop_at_once(container: Object, undo: Undo) -> None:
    lifecycle = container.get("lifecycle")
    if undo.stop_delay is None or not isinstance(lifecycle, dict):
        return
    if lifecycle.get("preStop") == {"sleep": {"seconds": undo.stop_delay}}:
        del lifecycle["preStop"]
        _drop_if_made(container, "lifecycle", undo)


def _lengthen_grace(spec: Object, options: Options, stop_delay: int) -> list[int | None]:
    """Give the pod time for the API's end and the sidecar's drain; return before and after."""
    before = spec.get("terminationGracePeriodSeconds")
    delay, timeout = _drain(options)
    own = before if type(before) is int else DEFAULT_GRACE_S
    after = max(delay, stop_delay - 1) + max(timeout, own) + RESERVE_S
    spec["terminationGracePeriodSeconds"] = after
    return [before if type(before) is int else None, after]


def _drain(options: Options) -> tuple[int, int]:
    """The sidecar's drain delay and drain timeout, in whole seconds."""
    delay, timeout = (_seconds(options.env.get(name), default) for name, default in _DRAIN)
    return delay, timeout


def _seconds(value: str | None, default: float) -> int:
    return math.ceil(float(value) if value and _SECONDS.fullmatch(value) else default)


def _restore_grace(spec: Object, undo: Undo) -> None:
    if undo.grace is None or spec.get("terminationGracePeriodSeconds") != undo.grace[1]:
        return
    if undo.grace[0] is None:
        del spec["terminationGracePeriodSeconds"]
    else:
        spec["terminationGracePeriodSeconds"] = undo.grace[0]
