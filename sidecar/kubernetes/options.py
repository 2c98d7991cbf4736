"""What a person chooses about an injected sidecar, by flags or by annotations of the pod."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from sidecar.core.sink_spec import parse_sink
from sidecar.errors import ManifestError
from sidecar.kubernetes.names import INJECT, INJECTED, ORIGINAL, PREFIX, STATUS
from sidecar.kubernetes.parts import quoted

# The longest of each: of a name in Kubernetes, of an image, of a setting.
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_IMAGE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,510}")
_API_PORT: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_SOURCE: Final = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_.:/~-]{0,254}")
_QUANTITY: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi)?")
_NUMBER: Final = re.compile(r"[0-9]{1,5}")

NAME: Final = "is not a name in Kubernetes; write it like shop-plans"
PORT: Final = "is not a port; write a number from 1 to 65535"
QUANTITY: Final = "is not a quantity; write it like 500m or 256Mi"
_RULES: Final = {
    "plans": (_NAME, NAME),
    "redis_secret": (_NAME, NAME),
    "namespace": (_NAME, NAME),
    "image": (_IMAGE, "is not an image; write it like registry.example.com/quota-sidecar:0.1.0"),
    "api_port": (_API_PORT, "is not a port; write its number or its name"),
    "port": (_NUMBER, PORT),
    "control_port": (_NUMBER, PORT),
    "source": (_SOURCE, "is not a source; write it like /sidecar/prod/shop"),
    "cpu": (_QUANTITY, QUANTITY),
    "memory": (_QUANTITY, QUANTITY),
    "stop_delay": (_NUMBER, "is not a number of seconds; write it like 5"),
}
MOST_STOP_DELAY_S: Final = 3_600


@dataclass(frozen=True, slots=True)
class Options:
    """Choices as text; None: not chosen.

    `plans` and `redis_secret` name a ConfigMap and a Secret. `redis` is a URL without password.
    `api_port` is the number or name of the API's port. `stop_delay`: seconds that the API waits
    before it stops. `env` has further settings of the sidecar by their variables.
    """

    plans: str | None = None
    redis_secret: str | None = None
    redis: str | None = None
    image: str | None = None
    api_port: str | None = None
    port: str | None = None
    control_port: str | None = None
    source: str | None = None
    sinks: str | None = None
    namespace: str | None = None
    cpu: str | None = None
    memory: str | None = None
    stop_delay: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def over(self, other: "Options") -> "Options":
        """These choices; those of `other` where these are open.

        A Secret and a URL are one choice: where Redis is.
        """
        chosen: dict[str, Any] = {"env": {**other.env, **self.env}}
        for one in fields(Options):
            if one.name != "env":
                own = getattr(self, one.name)
                chosen[one.name] = getattr(other, one.name) if own is None else own
        if self.redis is not None or self.redis_secret is not None:
            chosen |= {"redis": self.redis, "redis_secret": self.redis_secret}
        return Options(**chosen)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each choice that cannot be, and `WHAT; WHAT TO DO`."""
        for name, (pattern, message) in _RULES.items():
            value = getattr(self, name)
            if value is not None and not _fits(name, value, pattern):
                yield name, f"{quoted(value)} {message}"
        if self.redis is not None and self.redis_secret is not None:
            yield "redis", "the address of Redis is also in a Secret; keep one of the two"
        try:
            for sink in filter(None, (self.sinks or "").split(",")):
                if parse_sink(sink.strip()).kind == "file":
                    yield "sinks", "the pod has no volume for a file; write stdout or redis"
        except ValueError as error:
            yield "sinks", str(error)


def _fits(name: str, value: str, pattern: re.Pattern[str]) -> bool:
    if not pattern.fullmatch(value):
        return False
    if name == "stop_delay":
        return int(value) <= MOST_STOP_DELAY_S
    numeric = pattern is _NUMBER or (name == "api_port" and value.isdecimal())
    return not numeric or 1 <= int(value) <= 65_535


ANNOTATIONS: Final = {
    PREFIX + name.replace("_", "-"): name
    for name in (
        "plans", "redis_secret", "image", "api_port", "port", "control_port", "source", "sinks",
        "cpu", "memory", "stop_delay",
    )
}  # fmt: skip
_OTHERS: Final = {INJECT, STATUS, ORIGINAL}


def options_of(annotations: Mapping[str, str], place: str) -> Options:
    """The choices in a pod's annotations. Raises ManifestError with the annotation's place."""
    for name, value in annotations.items():
        if name.startswith(PREFIX) and name not in ANNOTATIONS and name not in _OTHERS:
            known = ", ".join(sorted(one.removeprefix(PREFIX) for one in ANNOTATIONS))
            raise ManifestError(f"{place}: {name}: is not known; after {PREFIX}, write {known}")
        if name == INJECT and value not in ("true", "false"):
            raise ManifestError(
                f'{place}: {name}: {quoted(value)} is not true or false; write "true"'
            )
        if name == STATUS and value != INJECTED:
            raise ManifestError(f"{place}: {name}: {quoted(value)} is not {INJECTED}; remove it")
    chosen: dict[str, Any] = {
        name: annotations[key] for key, name in ANNOTATIONS.items() if key in annotations
    }
    options = Options(**chosen)
    for name, message in options.problems():
        raise ManifestError(f"{place}: {PREFIX}{name.replace('_', '-')}: {message}")
    return options
