"""How this process runs: flags, then SIDECAR_… variables, then the settings file, then defaults."""

from sidecar.addresses import Address, UnixPath
from sidecar.settings.describe import ENV_PREFIX, Described
from sidecar.settings.model import Settings, described
from sidecar.settings.subset import for_tools
from sidecar.settings.unknown_variables import unknown_variables

__all__ = [
    "ENV_PREFIX",
    "Address",
    "Described",
    "Settings",
    "UnixPath",
    "described",
    "for_tools",
    "unknown_variables",
]
