"""Settings of a process: flags, then SIDECAR_… variables, settings file, defaults."""

from sidecar.addresses import Address, UnixPath
from sidecar.settings.describe import ENV_PREFIX, SettingInfo
from sidecar.settings.model import Settings, all_settings
from sidecar.settings.subset import load_subset
from sidecar.settings.unknown_variables import unknown_variables
from sidecar.settings.values import parse_address

__all__ = [
    "ENV_PREFIX",
    "Address",
    "SettingInfo",
    "Settings",
    "UnixPath",
    "all_settings",
    "load_subset",
    "parse_address",
    "unknown_variables",
]
