"""Environment variables that look like settings and are not, such as misspelt ones."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.settings.describe import ENV_PREFIX, SETTINGS_PAGE

# Kubernetes and Docker set these for a service with the name sidecar or sidecar-….
_PLATFORM_VARIABLES: Final = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


def unknown_variables(variables: Iterable[str], known: Sequence[str]) -> list[str]:
    """One message for each variable that has the prefix of settings and is not in `known`."""
    ends = [name.removeprefix(ENV_PREFIX) for name in known]
    messages = []
    for name in sorted(set(variables)):
        prefix, end = name[: len(ENV_PREFIX)].upper(), name[len(ENV_PREFIX) :].upper()
        if prefix != ENV_PREFIX or end in ends or _PLATFORM_VARIABLES.fullmatch(end):
            continue
        near = difflib.get_close_matches(end, ends, n=1)
        remedy = f"write {prefix}{near[0]}, or remove it" if near else f"see {SETTINGS_PAGE}"
        messages.append(f"{name} is not a setting and has no effect; {remedy}")
    return messages
