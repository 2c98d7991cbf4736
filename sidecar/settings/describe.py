"""Settings as people meet them: flag, variable, default, help, and what is said of a wrong one."""

import difflib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic import SecretStr
from pydantic.fields import FieldInfo

ENV_PREFIX: Final = "SIDECAR_"


class SettingInfo(NamedTuple):
    """One setting as flag, variable and file key know it. `default` None: it must be given."""

    name: str  # also the key in the settings file
    flag: str
    env: str
    default: str | None
    text: str
    metavar: str  # "" for a switch
    switch: bool


def describe(name: str, field: FieldInfo) -> SettingInfo:
    """What the model says of one field, in the words of the command line."""
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
    elif type(value) is tuple:
        shown = ",".join(value)
    else:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
    return SettingInfo(
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
    "listen": "HOST:PORT", "control": "HOST:PORT", "sinks": "LIST", "listen_mode": "OCTAL",
    "tls_cert": "FILE", "tls_key": "FILE", "tls_client_ca": "FILE", "workers": "N|auto",
    "upstream_ca": "FILE", "upstream_cert": "FILE", "upstream_key": "FILE", "upgrades": "LIST",
    "upstream_server_name": "NAME", "upstream_host": "HOST", "via_name": "NAME",
    "trusted_proxies": "LIST", "allow_in_path": "LIST", "reserved_prefix": "/PATH/",
    "max_connection_age_s": "SECONDS", "redis_prefix": "PREFIX", "source": "NAME",
    "shed": "adaptive|off|N", "webhook_secret": "SECRET",
}  # fmt: skip
_SECRET = frozenset({"redis", "webhook_secret"})  # whose values no error repeats
_UNITS = {"ms": "MS", "bytes": "BYTES", "s": "SECONDS"}  # by the last word of the name


def _metavar(name: str, annotation: Any) -> str:
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return _METAVARS.get(name) or _UNITS.get(name.rpartition("_")[2], "N")


def sentence(error: Any, fields: Mapping[str, FieldInfo]) -> str:
    """One pydantic error as a sentence: where it can be set, what is wrong, what to write."""
    name = str(error["loc"][0])
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = (
            f"; did you mean {near[0]}?"
            if near
            else "; docs/reference/settings.md lists all settings"
        )
        return f'the settings file has an unknown setting "{name}"{hint}'
    setting = describe(name, fields[name])
    return f"{setting.flag} ({setting.env}) {_complaint(error, setting)}"


def _complaint(error: Any, setting: SettingInfo) -> str:
    kind, context = error["type"], error.get("ctx", {})
    value = "the value" if setting.name in _SECRET else f'"{error["input"]}"'
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
