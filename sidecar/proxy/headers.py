"""Single header fields: which are forwarded or dropped, and the syntax of their values.

`heads.py` builds whole heads. A field is a pair: its name in lower case, and its whole line in the
case in which it came, ready to be sent.
"""

import re
from collections.abc import Sequence
from typing import Final

from sidecar.core.trace_context import parse_parent

Fields = list[tuple[bytes, bytes]]

# Common spellings of names, with the name in lower case: one object for all requests.
USUAL: Final = {
    spelling: name.lower()
    for name in (
        b"Accept", b"Accept-Encoding", b"Accept-Language", b"Authorization", b"Cache-Control",
        b"Connection", b"Content-Encoding", b"Content-Length", b"Content-Type", b"Cookie", b"Host",
        b"Idempotency-Key", b"Origin", b"Pragma", b"Referer", b"Sec-Fetch-Dest", b"Sec-Fetch-Mode",
        b"Sec-Fetch-Site", b"Traceparent", b"Transfer-Encoding", b"User-Agent", b"Via",
        b"X-Api-Key", b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto",
    )
    for spelling in (name, name.lower())
}  # fmt: skip

# Fields for one hop only: RFC 9110, section 7.6.1, and obsolete names that are still in use.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# What the sidecar sends to the upstream about the client. The same names from a client are dropped,
# also if spelled with "_" (`field_rules.py`): many upstreams take X_Account_Id for X-Account-Id.
MANAGED: Final = frozenset(
    {
        b"x-account-id",
        b"x-plan",
        b"x-key-id",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-consumer-id",
        b"x-consumer-plan",
        b"x-quota-remaining",
        b"forwarded",
        b"traceparent",
    }
)

# With these, an upstream can serve another method or path than the one that was priced.
OVERRIDES: Final = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"script_name",  # gunicorn reads a part of the path from it
        b"script-name",
        b"path_info",
        b"path-info",
    }
)

MAX_TRACE_MEMBERS: Final = 32  # of tracestate, over all of its lines (section 3.3.1.1)

# The sidecar generates framing and expectations, and never copies them.
OWN_FRAMING: Final = frozenset({b"content-length", b"expect", b"host"})

NOT_FORWARDED: Final = (
    HOP_BY_HOP | MANAGED | OVERRIDES | OWN_FRAMING | {b"via", b"max-forwards", b"tracestate"}
)
NOT_RELAYED: Final = HOP_BY_HOP | {b"content-length", b"x-request-id"}
# RFC 9110, section 6.5.1: no framing, routing or authentication in trailers.
NOT_IN_TRAILERS: Final = NOT_FORWARDED | {
    b"authorization", b"x-api-key", b"cookie", b"set-cookie", b"content-type",
    b"content-encoding", b"content-range", b"cache-control", b"tracestate",
    b"retry-after", b"ratelimit", b"ratelimit-policy",
}  # fmt: skip

_BEARER: Final = re.compile(rb"authorization:[ \t]*bearer(?:[ \t]|\r|$)", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


def nominated(values: Sequence[bytes]) -> frozenset[bytes]:
    """The field names that Connection values declare hop-by-hop (RFC 9110, section 7.6.1)."""
    return frozenset(
        name.strip(b" \t").lower() for value in values for name in value.split(b",")
    ) - {b"", b"close", b"keep-alive", b"upgrade"}


def without_credentials(fields: Fields) -> Fields:
    """The fields without the API key: X-Api-Key, and Authorization with a bearer token."""
    return [
        (name, line)
        for name, line in fields
        if name != b"x-api-key" and not (name == b"authorization" and _BEARER.match(line))
    ]


def without_nominated(fields: Fields, connection: Sequence[bytes]) -> Fields:
    """The fields that Connection does not declare hop-by-hop."""
    dropped = nominated(connection)
    return [field for field in fields if field[0] not in dropped] if dropped else fields


def tokens(values: Sequence[bytes]) -> list[bytes]:
    """The members of a comma-separated list field, in lower case, without empty ones."""
    return [
        token
        for value in values
        for part in value.split(b",")
        if (token := part.strip(b" \t").lower())
    ]


def valid_host(value: bytes) -> bool:
    """Whether a Host value is a host with an optional port (RFC 9112, section 3.2)."""
    return _HOST.fullmatch(value) is not None


def trace_fields(
    parents: Sequence[bytes], states: Sequence[bytes], request_id: str, *, sampled: bool = True
) -> bytes:
    """The W3C trace context for the upstream: the client's trace, with the sidecar as its parent.

    Without exactly one valid traceparent, it is a new trace whose id is the request's id, and
    tracestate is dropped (section 4.3). So is a tracestate with more than 32 members. `sampled`:
    the flag of a new trace.
    """
    digits = request_id.replace("-", "").encode()
    if parents:
        parent = parse_parent(parents)
        if parent is not None:
            line = b"traceparent: 00-%b-%b-%b\r\n" % (
                parent.trace_id, digits[16:], parent.flags,
            )  # fmt: skip
            if states and 0 < len(tokens(states)) <= MAX_TRACE_MEMBERS:
                line += b"tracestate: %b\r\n" % b",".join(states)
            return line
    return b"traceparent: 00-%b-%b-0%d\r\n" % (digits, digits[16:], sampled)
