"""How this process runs: flags, then SIDECAR_… variables, then the settings file, then defaults.

One field is one setting. Its description is the help of its flag, its line in
docs/settings.md and the hint of its errors; nothing lists the settings a second time.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sidecar.errors import SettingsError

ENV_PREFIX = "SIDECAR_"


class Address(NamedTuple):
    """A TCP address. Port 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _address(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bad_host = not bare or (":" in bare and bare == host) or re.search(r"[\s/@\[\]]", bare)
    if not colon or bad_host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f'"{value}" is not an address; write HOST:PORT, like 127.0.0.1:8080')
    return Address(bare, int(port))


def _upstream(value: object) -> object:
    if not isinstance(value, str):
        return value
    scheme, colon, _ = value.partition(":")
    if colon and scheme.lower() in ("https", "unix"):
        raise ValueError(
            f"{scheme.lower()}: upstreams are not supported yet; write http://HOST:PORT"
        )
    wrong = "is not an upstream; write http://HOST:PORT, without a path"
    try:
        url = urlsplit(value)
        port = 80 if url.port is None else url.port
    except ValueError:
        raise ValueError(f"the value {wrong}") from None
    if url.username is not None or url.password is not None:
        raise ValueError("credentials in the upstream's address are not supported yet")
    plain = url.path in ("", "/") and not url.query and not url.fragment
    if url.scheme != "http" or not url.hostname or not plain or port == 0:
        raise ValueError(f'"{value}" {wrong}')
    return Address(url.hostname, port)


def _redis(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    # The value is never repeated: it may hold a password.
    try:
        url = urlsplit(text)
        valid = url.scheme in ("redis", "rediss") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"(/[0-9]*)?", url.path):
        raise ValueError("not a Redis URL; write redis://[USER:PASSWORD@]HOST:PORT/NUMBER")
    return value


def _sinks(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError("not a list of sinks; write stdout, file:/path or redis")
    seen: set[str] = set()
    for sink in value:
        kind, _, path = str(sink).partition(":")
        if sink not in ("stdout", "redis") and not (kind == "file" and path):
            raise ValueError(f'"{sink}" is not a sink; write stdout, file:/path or redis')
        if kind in seen:
            raise ValueError(f"{kind} is there twice; one sink of a kind is served")
        seen.add(kind)
    return tuple(value)


Where = Annotated[Address, NoDecode, BeforeValidator(_address)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400)]


class Settings(BaseSettings):
    """Every setting of `sidecar serve`. Immutable. Raises ValidationError: use `load`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    config: Path | None = Field(None, description="A YAML or TOML file with these settings.")
    plans: Path = Field(description="The plan file.")
    upstream: Annotated[Address, NoDecode, BeforeValidator(_upstream)] = Field(
        description="The API that calls are forwarded to, as http://HOST:PORT."
    )
    listen: Where = Field(
        Address("127.0.0.1", 8080), description="Where customers' calls come in, as HOST:PORT."
    )
    control: Where = Field(
        Address("127.0.0.1", 9090),
        description="Where /healthz, /readyz, /metrics and /config answer, as HOST:PORT.",
    )
    redis: Annotated[SecretStr, BeforeValidator(_redis)] = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="The Redis or Valkey that keeps the counters; rediss:// for TLS.",
    )
    redis_prefix: str = Field(
        "qs",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="What all keys in Redis start with.",
    )
    redis_timeout_ms: int = Field(
        50, ge=1, le=10_000, description="How long a call waits for Redis, in milliseconds."
    )
    spool: Path = Field(
        Path("/var/spool/sidecar"),
        description="The directory of the event spool; one per process, on a disk that stays.",
    )
    spool_full: Literal["refuse", "drop"] = Field(
        "refuse",
        description="When the spool is full: refuse billable calls with 503, or drop events.",
    )
    spool_max_bytes: int = Field(
        1 << 30, ge=1 << 20, description="How large the spool may grow, in bytes."
    )
    commit_window_ms: int = Field(
        20, ge=1, le=1_000, description="The most that kill -9 may lose of events, in milliseconds."
    )
    sinks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_sinks)] = Field(
        (),
        description="Where events are shipped, comma-separated: stdout, file:/path, redis.",
    )
    source: str = Field(
        "/sidecar/default",
        pattern=r"^[A-Za-z0-9/][A-Za-z0-9_.:/~-]{0,254}$",
        description="The source of the events: names the workload, never the pod.",
    )
    reserved_prefix: str = Field(
        "/-/",
        pattern=r"^/[A-Za-z0-9_.~-]+/$",
        description="Paths that the sidecar keeps for itself and never forwards.",
    )
    legacy_headers: bool = Field(
        False, description="Send X-RateLimit-Limit, -Remaining and -Reset as well."
    )
    refusal_events: bool = Field(
        False, description="Record an api.refusal.v1 event for each refused call of an account."
    )
    access_log: bool = Field(False, description="Log one line per call.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least serious lines that are logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="JSON for machines, console for people."
    )
    header_timeout_s: Seconds = Field(
        10.0, description="How long a client may take to send a request's headers, in seconds."
    )
    idle_timeout_s: Seconds = Field(
        75.0, description="How long a client's idle connection is kept, in seconds."
    )
    body_timeout_s: Seconds = Field(
        30.0, description="The longest pause inside a body, in seconds."
    )
    connect_timeout_s: Seconds = Field(
        3.0, description="How long connecting to the upstream may take, in seconds."
    )
    response_timeout_s: Seconds = Field(
        60.0, description="How long the upstream may take to begin its response, in seconds."
    )
    max_header_bytes: int = Field(
        32_768, ge=1_024, le=1 << 20, description="All header fields of a request, in bytes."
    )
    max_headers: int = Field(
        100, ge=8, le=10_000, description="How many header fields a request may have."
    )
    max_target_bytes: int = Field(
        8_192, ge=256, le=1 << 20, description="Path and query of a request, in bytes."
    )
    max_body_bytes: int = Field(
        0, ge=0, description="The body of a request, in bytes; 0: any size, bodies are streamed."
    )
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="How many client connections are open at once."
    )
    upstream_connections: int = Field(
        256, ge=1, le=100_000, description="How many connections to the upstream are open at once."
    )
    drain_timeout_s: Seconds = Field(
        30.0, description="How long calls in flight may take to end after SIGTERM, in seconds."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used here
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used here
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, settings file; the file is the one that the first two name."""
        path = init_settings().get("config") or env_settings().get("config")
        if not path:
            return init_settings, env_settings
        values = _read(Path(str(path)))
        return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    @classmethod
    def load(cls, flags: Mapping[str, object]) -> Self:
        """Settings from flags (None: not given), environment, file and defaults.

        Raises SettingsError with one sentence a line, each naming the flag and the variable.
        """
        try:
            return cls(**_given(flags))  # type: ignore[arg-type]  # validated by pydantic
        except ValidationError as error:
            lines = [_sentence(one) for one in error.errors(include_url=False)]
            raise SettingsError("\n".join(dict.fromkeys(lines))) from None

    @classmethod
    def for_tools(cls, **flags: object) -> Self:
        """`load` for verbs that serve nothing: plan file and upstream need not be given."""
        return cls.load({"plans": "none", "upstream": "http://none"} | _given(flags))

    @property
    def redis_shown(self) -> str:
        """The address of Redis without user, password or query: what may be logged."""
        url = urlsplit(self.redis.get_secret_value())
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"{url.scheme}://{host}:{url.port or 6379}{url.path}"


def _given(flags: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


class Described(NamedTuple):
    """One setting as flag, variable and file key know it. `default` None: it must be given."""

    name: str  # also the key in the settings file
    flag: str
    env: str
    default: str | None
    text: str
    metavar: str  # "" for a switch
    switch: bool


def described() -> list[Described]:
    """All settings, in the order of the model."""
    return [_described(name) for name in Settings.model_fields]


def _described(name: str) -> Described:
    field = Settings.model_fields[name]
    switch = field.annotation is bool
    value = field.default
    shown: str | None
    if field.is_required():
        shown = None
    elif isinstance(value, bool):
        shown = "on" if value else "off"
    elif isinstance(value, SecretStr):
        shown = value.get_secret_value()
    elif value is None or value == ():
        shown = "none"
    else:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
    return Described(
        name=name,
        flag="--" + name.replace("_", "-"),
        env=ENV_PREFIX + name.upper(),
        default=shown,
        text=field.description or "",
        metavar="" if switch else _metavar(name, field.annotation),
        switch=switch,
    )


_METAVARS = {
    "config": "FILE", "plans": "FILE", "upstream": "URL", "redis": "URL", "spool": "DIR",
    "listen": "HOST:PORT", "control": "HOST:PORT", "sinks": "LIST",
}  # fmt: skip


def _metavar(name: str, annotation: Any) -> str:
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return _METAVARS.get(name) or {int: "N", float: "SECONDS"}.get(annotation, "TEXT")


def _read(path: Path) -> dict[str, Any]:
    """The settings file. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"--config (SIDECAR_CONFIG): cannot read {path}: {why}") from None
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except ValueError as error:
        raise SettingsError(f"--config (SIDECAR_CONFIG): {path}: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(
            f"--config (SIDECAR_CONFIG): {path} must hold settings as NAME: VALUE lines"
        )
    if "config" in values:
        raise SettingsError(f"{path}: a settings file cannot name another one; remove config")
    return {str(name): value for name, value in values.items() if value is not None}


def _yaml(text: str) -> Any:
    import yaml  # only a process with a settings file pays for it

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise ValueError(f"not valid YAML: {where}{problem}") from None


def _sentence(error: Any) -> str:
    """One pydantic error as a sentence: where it can be set, what is wrong, what to write."""
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; docs/settings.md lists all settings"
        return f'the settings file has an unknown setting "{name}"{hint}'
    setting = _described(name)
    return f"{setting.flag} ({setting.env}) {_complaint(error, setting)}"


def _complaint(error: Any, setting: Described) -> str:
    kind, context = error["type"], error.get("ctx", {})
    value = "the value" if setting.name == "redis" else f'"{error["input"]}"'
    if kind == "missing":
        return f"is missing. {setting.text}"
    if kind == "value_error":
        return f"is wrong: {context['error']}"
    ways = {
        "greater_than_equal": f"{value} is too small; at least {context.get('ge')}",
        "less_than_equal": f"{value} is too large; at most {context.get('le')}",
        "literal_error": f"{value} is not known; write {context.get('expected')}",
        "int_parsing": f"{value} is not a whole number",
        "int_from_float": f"{value} is not a whole number",
        "float_parsing": f"{value} is not a number",
        "bool_parsing": f"{value} is neither true nor false",
        "string_pattern_mismatch": f"{value} has characters that cannot stand there",
    }
    return f"is wrong: {ways.get(kind, f'{value} cannot be used here')}. {setting.text}"
