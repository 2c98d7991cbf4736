"""Path patterns of other products, which this plan file reads as plain text."""

import re
from difflib import get_close_matches
from typing import Final

from sidecar.config.route_patterns import split_match
from sidecar.config.values import quoted

# The registered methods (RFC 9110, section 16.1) that clients use; others are forwarded too.
_METHODS: Final = (
    "DELETE|GET|HEAD|POST|PUT|OPTIONS|COPY|LOCK|MKCOL|MOVE|PROPFIND|PROPPATCH|SEARCH|UNLOCK|BIND"
    "|REBIND|UNBIND|ACL|REPORT|MKACTIVITY|CHECKOUT|CHECKIN|MERGE|M-SEARCH|NOTIFY|SUBSCRIBE"
    "|UNSUBSCRIBE|PATCH|PURGE|MKCALENDAR|LINK|UNLINK|SOURCE|QUERY|LABEL|UPDATE|UNCHECKOUT"
    "|VERSION-CONTROL|BASELINE-CONTROL|MKWORKSPACE|ORDERPATCH|UPDATEREDIRECTREF"
)
_NOT_FORWARDED: Final = (
    *("CONNECT", "TRACE", "PRI"),
    *("ANNOUNCE", "DESCRIBE", "FLUSH", "GET_PARAMETER", "PAUSE", "PLAY", "RECORD", "REDIRECT"),
    *("SETUP", "SET_PARAMETER", "TEARDOWN"),  # of RTSP
)
_EVERY: Final = ("ANY", "ALL")  # of other gateways: every method
_TYPO: Final = 0.7  # how alike a misspelt method is to the one that was meant
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
    if method in _NOT_FORWARDED:
        return f"{quoted(match)} never matches: {method} is never forwarded; write another method"
    if method in _EVERY:
        return f"{quoted(match)} matches only the method {method}; write {quoted(path)} for all"
    known = _METHODS.split("|")
    close = get_close_matches(method, known, 1, _TYPO) if method and method not in known else []
    if close:
        return f"{quoted(match)}: {method} is not a method of HTTP; write {close[0]}"
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
