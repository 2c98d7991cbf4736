"""Descriptions of settings: flag, variable, default, help; and messages about wrong values."""

import difflib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic import SecretStr
from pydantic.fields import FieldInfo

ENV_PREFIX: Final = "SIDECAR_"
SETTINGS_PAGE: Final = "docs/reference/settings.md"


class SettingInfo(NamedTuple):
    """One setting as flag, environment variable and key of the settings file."""

    name: str  # also the key in the settings file
    flag: str
    env: str
    default: str | None  # None: required
    help: str
    metavar: str  # "" for a switch
    switch: bool


def env_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def describe(name: str, field: FieldInfo) -> SettingInfo:
    """The description of one field of the model."""
    switch = field.annotation is bool
    return SettingInfo(
        name=name,
        flag="--" + name.replace("_", "-"),
        env=env_of(name),
        default=None if field.is_required() else _default(field.default),
        help=" ".join((field.description or "").split()),
        metavar="" if switch else _metavar(name, field.annotation),
        switch=switch,
    )


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if value is None or value == ():
        return "none"
    if type(value) is tuple:
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


_METAVARS: Final = {
    "config": "FILE", "plans": "FILE", "upstream": "URL", "redis": "URL", "spool": "DIR",
    "listen": "HOST:PORT", "control": "HOST:PORT", "sinks": "LIST", "listen_mode": "OCTAL",
    "tls_cert": "FILE", "tls_key": "FILE", "tls_client_ca": "FILE", "workers": "N|auto",
    "upstream_ca": "FILE", "upstream_cert": "FILE", "upstream_key": "FILE", "upgrades": "LIST",
    "upstream_server_name": "NAME", "upstream_host": "HOST", "via_name": "NAME",
    "trusted_proxies": "LIST", "allow_in_path": "LIST", "reserved_prefix": "/PATH/",
    "max_connection_age_s": "SECONDS", "redis_prefix": "PREFIX", "source": "NAME",
    "shed": "adaptive|off|N", "webhook_secret": "SECRET",
    "job_fields": "LIST", "job_parameters": "LIST", "job_bytes_per_account": "BYTES",
    "job_bytes_in_all": "BYTES", "control_token_file": "FILE",
    "decide": "HOST:PORT", "decide_mode": "OCTAL",
    "decide_token_file": "FILE", "decide_tls_cert": "FILE", "decide_tls_key": "FILE",
    "decide_client_ca": "FILE",
}  # fmt: skip
_SECRET: Final = frozenset({"redis", "webhook_secret"})  # messages do not repeat their values
_UNITS: Final = {"ms": "MS", "bytes": "BYTES", "s": "SECONDS"}  # by the last word of the name


def _metavar(name: str, annotation: Any) -> str:
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return _METAVARS.get(name) or _UNITS.get(name.rpartition("_")[2], "N")


def message(error: Any, fields: Mapping[str, FieldInfo]) -> str:
    """The message for one pydantic error: flag and variable, what is wrong; what to write."""
    name = str(error["loc"][0])
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        remedy = f"write {near[0]}, or remove it" if near else f"see {SETTINGS_PAGE}"
        return f'the settings file has an unknown setting "{name}"; {remedy}'
    setting = describe(name, fields[name])
    return f"{setting.flag} ({setting.env}): {_problem(error, setting)}"


def _bound(context: Mapping[str, Any], name: str) -> str:
    bound = context.get(name, 0)
    return str(int(bound) if bound == int(bound) else bound)


def _problem(error: Any, setting: SettingInfo) -> str:
    kind, context = error["type"], error.get("ctx", {})
    value = "the value" if setting.name in _SECRET else f'"{error["input"]}"'
    if kind == "missing":
        return f"is missing; write {setting.flag} {setting.metavar}, or set {setting.env}"
    if kind == "value_error":
        return str(context["error"])
    problems = {
        "greater_than_equal": f"{value} is too small; write at least {_bound(context, 'ge')}",
        "less_than_equal": f"{value} is too large; write at most {_bound(context, 'le')}",
        "literal_error": f"{value} is not allowed here; write {context.get('expected')}",
        "int_parsing": f"{value} is not a whole number; write one",
        "int_from_float": f"{value} is not a whole number; write one",
        "float_parsing": f"{value} is not a number; write one",
        "bool_parsing": f"{value} is not a boolean; write true or false",
        "string_pattern_mismatch": f"{value} does not match the format; see {SETTINGS_PAGE}",
    }
    return problems.get(kind, f"{value} cannot be used here; see {SETTINGS_PAGE}")
