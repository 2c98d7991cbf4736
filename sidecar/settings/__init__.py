"""How this process runs: flags, then SIDECAR_… variables, then the settings file, then defaults."""

from sidecar.addresses import Address, UnixPath
from sidecar.settings.describing import ENV_PREFIX, Described
from sidecar.settings.model import Settings, described
from sidecar.settings.strangers import strangers
from sidecar.settings.tools import for_tools

__all__ = [
    "ENV_PREFIX",
    "Address",
    "Described",
    "Settings",
    "UnixPath",
    "described",
    "for_tools",
    "strangers",
]
