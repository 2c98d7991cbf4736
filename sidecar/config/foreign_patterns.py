"""Path patterns of other products, which this plan file reads as plain text."""

import re
from typing import Final

from sidecar.config.route_patterns import split_match
from sidecar.config.values import quoted

# The methods that the HTTP parser knows, without CONNECT and TRACE, which the sidecar refuses.
_METHODS: Final = re.compile(
    "DELETE|GET|HEAD|POST|PUT|OPTIONS|COPY|LOCK|MKCOL|MOVE|PROPFIND|PROPPATCH|SEARCH|UNLOCK|BIND"
    "|REBIND|UNBIND|ACL|REPORT|MKACTIVITY|CHECKOUT|MERGE|M-SEARCH|NOTIFY|SUBSCRIBE|UNSUBSCRIBE"
    "|PATCH|PURGE|MKCALENDAR|LINK|UNLINK|SOURCE|QUERY"
)
_NAMED: Final = re.compile(
    r":(\w+)(?:\([^/]*\))?[?*+]?"  # :id, :id(\d+), :id?
    r"|<(?:\w+:)?(\w+)>"  # <id>, <int:id>
    r"|\[(?:\.\.\.)?([A-Za-z_]\w*)\]"  # [id], [...rest]
)
# Characters that a path cannot contain (RFC 3986), and forms that make no sense as plain text.
_REGEX: Final = re.compile(r"[\[\]\\^|<>]|^\.[*+]$|\([^)]*[*+.][^)]*\)|\)[*+?]")
_REMEDY: Final = (
    "write {name} for one segment, * for any characters in one, /** for all that follows"
)


def warning(match: str) -> str | None:
    """Why this pattern is probably not what was meant; what to write instead."""
    method, path = split_match(match)
    if method is not None and not _METHODS.fullmatch(method):
        return (
            f"{quoted(match)} never matches: {method} is not a method that is forwarded; "
            "write one such as GET"
        )
    segments = path.split("/")
    for segment in segments:
        named = _NAMED.fullmatch(segment)
        if named:
            name = next(group for group in named.groups() if group)
            wanted = match.replace(segment, f"{{{name}}}")
            return (
                f"{quoted(match)} matches only the text {quoted(segment)}; write {quoted(wanted)}"
            )
    if path.endswith("$") or any(_REGEX.search(segment) for segment in segments):
        return (
            f"{quoted(match)} is not read as a regular expression and matches only this text; "
            f"{_REMEDY}"
        )
    return None
