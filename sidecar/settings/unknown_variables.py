"""Variables that look like settings and are none: a mistyped one would do nothing, unseen."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.settings.describe import ENV_PREFIX

# Kubernetes and Docker make these up for a service that is called sidecar, or sidecar-something.
_OF_THE_PLATFORM: Final = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


def unknown_variables(variables: Iterable[str], known: Sequence[str]) -> list[str]:
    """One sentence for each variable that starts like a setting and is none of `known`."""
    ends = [name.removeprefix(ENV_PREFIX) for name in known]
    told = []
    for name in sorted(set(variables)):
        prefix, end = name[: len(ENV_PREFIX)].upper(), name[len(ENV_PREFIX) :].upper()
        if prefix != ENV_PREFIX or end in ends or _OF_THE_PLATFORM.fullmatch(end):
            continue
        near = difflib.get_close_matches(end, ends, n=1)
        hint = (
            f"did you mean {prefix}{near[0]}?"
            if near
            else "docs/reference/settings.md lists all settings"
        )
        told.append(f"{name} is not a setting and does nothing; {hint}")
    return told
