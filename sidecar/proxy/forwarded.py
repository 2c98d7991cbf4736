"""What trusted proxies say of a client: X-Forwarded-For, or Forwarded (RFC 7239).

Both list the hops of a request, the nearest last. The client is the last hop that is not a trusted
proxy itself: a hop before it could be the client's invention. X-Forwarded-For counts if both
are there, since proxies that write it usually pass on a client's Forwarded. A hop that names no
address (`unknown`, `_hidden`, or not readable) makes the client's address NO_ADDRESS: the client is
never taken for the proxy, nor for the hop before.
"""

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import tokens, valid_host

NO_ADDRESS: Final = "unknown"
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,31}")
_PORT: Final = re.compile(rb"[0-9]{1,5}|_[A-Za-z0-9._-]{1,64}")  # or obfuscated: RFC 7239, 6.2
_IPV4: Final = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# One parameter, and what ends it. Unquoted addresses with ":" or "[" are common, so they count.
_PARAMETER: Final = re.compile(
    rb"[ \t]*(?:(" + _TOKEN + rb")=(?:\"((?:[^\"\\]|\\.)*)\"|([^\"\s,;]*))[ \t]*)?([,;]|$)",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)


class Hop(NamedTuple):
    """One element of Forwarded. `node` is b"" without a `for`."""

    node: bytes
    proto: bytes = b""
    host: bytes = b""


class Reported(NamedTuple):
    """What is known of the client. `proto` and `host` are b"" if no proxy says."""

    address: str
    proto: bytes = b""
    host: bytes = b""


def address_of(node: bytes) -> str:
    """The IP address in a node; NO_ADDRESS if it has none.

    All forms in use: with or without a port, IPv6 with or without brackets, in quotes, with a zone.
    """
    node = node.strip(b" \t").strip(b'"')
    if node.startswith(b"["):
        inside, bracket, rest = node[1:].partition(b"]")
        if not bracket or (rest and not (rest[:1] == b":" and _PORT.fullmatch(rest[1:]))):
            return NO_ADDRESS
        return _ip(inside)
    if node.count(b":") == 1:
        host, _, port = node.partition(b":")
        return _ip(host) if _IPV4.fullmatch(host) and _PORT.fullmatch(port) else NO_ADDRESS
    return _ip(node)


def _ip(text: bytes) -> str:
    try:
        if b":" not in text:
            return str(IPv4Address(text.decode("ascii")))
        wide = IPv6Address(text.partition(b"%")[0].decode("ascii"))
    except ValueError:
        return NO_ADDRESS
    return str(wide.ipv4_mapped or wide)


def parse_forwarded(values: Sequence[bytes]) -> list[Hop] | None:
    """The elements of Forwarded, the nearest hop last; None if the field is not valid."""
    hops: list[Hop] = []
    for value in values:
        at, pairs = 0, dict[bytes, bytes]()
        while at <= len(value):
            found = _PARAMETER.match(value, at)
            if found is None:
                return None
            if found[1] is not None:
                name = found[1].lower()
                if name in pairs:
                    return None  # each parameter occurs once per element (section 4)
                text = found[3] if found[2] is None else _ESCAPE.sub(rb"\1", found[2])
                pairs[name] = text
            if found[4] != b";" and pairs:
                hops.append(_hop(pairs))
                pairs = {}
            if not found[4]:
                break
            at = found.end()
    return hops


def _hop(pairs: dict[bytes, bytes]) -> Hop:
    proto = pairs.get(b"proto", b"")
    if not _SCHEME.fullmatch(proto):
        proto = b""
    return Hop(pairs.get(b"for", b""), proto, pairs.get(b"host", b""))


def client_in_list(peer: str, nodes: Sequence[bytes], trusts: Callable[[str], bool]) -> str:
    """The client's address behind a trusted peer, by X-Forwarded-For's members in their order."""
    address = peer
    for node in reversed(nodes):
        address = address_of(node)
        if address == NO_ADDRESS or not trusts(address):
            break
    return address


def _client_in_hops(peer: str, hops: Sequence[Hop], trusts: Callable[[str], bool]) -> Reported:
    """The same by Forwarded's elements, with the scheme and host that the client used."""
    reported = Reported(peer)
    for hop in reversed(hops):
        reported = Reported(
            address_of(hop.node), hop.proto or reported.proto, hop.host or reported.host
        )
        if reported.address == NO_ADDRESS or not trusts(reported.address):
            break
    return reported


def note_client(request: Request, trusts: Callable[[str], bool]) -> None:
    """Note the client's address, and the scheme and host that it used, behind a trusted peer.

    If only Forwarded has them, the request gets the X-Forwarded-* values that say the same.
    """
    if not trusts(request.peer):
        return
    nodes = tokens(request.forwarded_for)
    if nodes:
        request.address = client_in_list(request.peer, nodes, trusts)
        return
    if not request.forwarded:
        return
    hops = parse_forwarded(request.forwarded)
    if hops is None:
        request.address, request.forwarded = NO_ADDRESS, ()
        return
    if not hops:
        return
    reported = _client_in_hops(request.peer, hops, trusts)
    request.address = reported.address
    request.forwarded_for = tuple([address_of(hop.node).encode() for hop in hops])
    if reported.proto and not request.forwarded_proto:
        request.forwarded_proto = (reported.proto,)
    if valid_host(reported.host) and not request.forwarded_host:
        request.forwarded_host = (reported.host,)
