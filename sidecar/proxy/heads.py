"""Whole heads as bytes: the request's for the upstream, and the end of the response's.

`headers.py` has the rules for single fields. The order is a matter of security: the fields that
Connection names are dropped first, and the sidecar's fields are added after that. So a client
cannot remove a field of the sidecar.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from sidecar.core.refusals.build import wait_fields
from sidecar.core.refusals.ratelimit_fields import legacy_fields, ratelimit_field
from sidecar.gate import Admission
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import (
    Fields,
    nominated,
    tokens,
    trace_fields,
    without_credentials,
    without_nominated,
)

Networks = tuple[str, ...]


def trust(networks: Networks) -> Callable[[str], bool]:
    """A test of whether an address belongs to a proxy whose X-Forwarded-* fields are trusted.

    Raises ValueError if a network is invalid.
    """
    known = tuple(ip_network(network, strict=False) for network in networks)

    @lru_cache(maxsize=4096)
    def trusted(address: str) -> bool:
        if address == "unix":
            return "unix" in networks
        try:
            one = ip_address(address)
        except ValueError:
            return False
        return any(one in network for network in known)

    return trusted


def _trust_none(_address: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """Settings of the data port that apply to every request."""

    via: bytes = b"sidecar"  # the sidecar's pseudonym; a request that has it already is a loop
    scheme: bytes = b"http"
    upstream_host: bytes = b""  # replaces Host; b"" keeps the client's
    authority: bytes = b"localhost"  # of the upstream: Host of a request that came without one
    forward_credentials: bool = True
    legacy_headers: bool = False
    traces: bool = False  # requests that are not traced tell the upstream so
    upgrades: frozenset[bytes] = field(default_factory=lambda: frozenset({b"websocket"}))
    trusts: Callable[[str], bool] = _trust_none


def wanted_upgrade(request: Request, options: ProxyOptions) -> bytes:
    """The protocol to offer to the upstream; b"" if the request asks for none that is allowed."""
    if not request.upgrade or request.has_body or request.http10:
        return b""
    if b"upgrade" not in tokens(request.connection):
        return b""
    for protocol in tokens(request.upgrade):
        if protocol in options.upgrades:
            return protocol
    return b""


def request_head(
    request: Request, admission: Admission, options: ProxyOptions, upgrade: bytes
) -> list[bytes]:
    """The head of the request for the upstream, in parts."""
    key = admission.key
    host = request.host[0] if request.host else b""
    fields = request.fields
    states = request.tracestates
    if request.connection:
        fields = without_nominated(fields, request.connection)
        if states and b"tracestate" in nominated(request.connection):
            states = ()
    if not options.forward_credentials:
        fields = without_credentials(fields)
    parts = [
        b"%b %b HTTP/1.1\r\nHost: %b\r\n"
        % (
            request.method.encode(),
            request.target,
            options.upstream_host or host or options.authority,
        )
    ]
    for _, line in fields:  # a comprehension would be a call more
        parts.append(line)
    if request.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif request.content_length is not None:
        parts.append(b"Content-Length: %d\r\n" % request.content_length)
    if upgrade:
        parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    elif request.te and b"trailers" in tokens(request.te):
        parts.append(b"Connection: TE\r\nTE: trailers\r\n")
    if request.max_forwards is not None:
        parts.append(b"Max-Forwards: %d\r\n" % max(0, request.max_forwards - 1))
    request_id = admission.request_id
    if not request.via:
        via = b"%b %b" % (b"1.0" if request.http10 else b"1.1", options.via)
    else:
        via = b"%b, 1.%d %b" % (b", ".join(request.via), not request.http10, options.via)
    parts.append(
        b"X-Account-Id: %b\r\nX-Plan: %b\r\nX-Key-Id: %b\r\nX-Request-Id: %b\r\n"
        b"%bVia: %b\r\n"
        % (
            key.account.id.encode(),
            admission.entitlement.plan.id.encode(),
            key.id.encode(),
            request_id.encode(),
            trace_fields(
                request.traceparents,
                states,
                request_id,
                sampled=request.trace is not None or not options.traces,
            ),
            via,
        )
    )
    parts.append(_forwarded(request, host, options))
    return parts


def _forwarded(request: Request, host: bytes, options: ProxyOptions) -> bytes:
    """X-Forwarded-* and the end of the head. Values of a trusted proxy are kept and extended."""
    peer = request.peer.encode()
    scheme = options.scheme
    if not options.trusts(request.peer):
        if not host:  # HTTP/1.0
            return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n\r\n" % (peer, scheme)
        return b"X-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Proto: %b\r\n\r\n" % (
            peer,
            host,
            scheme,
        )
    hops = b", ".join((*request.forwarded_for, peer))
    host = request.forwarded_host[0] if request.forwarded_host else host
    proto = request.forwarded_proto[0] if request.forwarded_proto else scheme
    lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (hops, proto)
    if host:
        lines += b"X-Forwarded-Host: %b\r\n" % host
    if request.forwarded:  # RFC 7239, section 4
        node = b'"[%b]"' % peer if b":" in peer else peer
        forwarded = b", ".join(request.forwarded)
        lines += b"Forwarded: %b, for=%b;proto=%b\r\n" % (forwarded, node, scheme)
    return lines + b"\r\n"


_LEGACY: Final = frozenset({b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"})


def without_legacy(fields: Fields, admission: Admission) -> Fields:
    """The API's fields without those that the sidecar's X-RateLimit-* replace."""
    if admission.decision.tightest is None:
        return fields
    return [field for field in fields if field[0] not in _LEGACY]


def limit_fields(admission: Admission, options: ProxyOptions) -> tuple[tuple[bytes, bytes], ...]:
    """The state of the limits, for an error of the sidecar on a request that they counted."""
    tightest, now_us = admission.decision.tightest, admission.decision.now_us
    if tightest is None:
        return ()
    return (
        (b"RateLimit-Policy", admission.entitlement.policy_field),
        (b"RateLimit", ratelimit_field(tightest, now_us)),
        *(legacy_fields(tightest, now_us) if options.legacy_headers else ()),
    )


def own_fields(request: Request, admission: Admission, options: ProxyOptions, keep: bool) -> bytes:
    """The sidecar's fields of a forwarded response, and the end of its head."""
    tightest = admission.decision.tightest
    head = b"X-Request-Id: %b\r\n" % admission.request_id.encode()
    if tightest is not None:
        now_us = admission.decision.now_us
        head += b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (
            admission.entitlement.policy_field,
            ratelimit_field(tightest, now_us),
        )
        if options.legacy_headers:
            head += b"".join(b"%b: %b\r\n" % pair for pair in legacy_fields(tightest, now_us))
    if admission.queued_us:
        head += b"".join(b"%b: %b\r\n" % pair for pair in wait_fields(admission.queued_us))
    if not keep:
        return head + b"Connection: close\r\n\r\n"
    if request.http10:
        return head + b"Connection: keep-alive\r\n\r\n"
    return head + b"\r\n"
