"""The plain form of a question: the original request in the header fields of forward auth.

Traefik and Caddy send X-Forwarded-Method and X-Forwarded-Uri, nginx by custom X-Original-Method and
X-Original-URI. The pair must be complete, and two pairs must agree: a gateway that sets only one
would let its client choose the other.
"""

from collections.abc import Callable, Iterable
from typing import Final

from sidecar.decide.documents import METHOD, InvalidDocument, is_target
from sidecar.decide.gateway_request import gateway_request
from sidecar.proxy.downstream.checks import ABSOLUTE
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.forwarded import client_in_list
from sidecar.proxy.headers import tokens

_PAIRS: Final = (
    (b"x-forwarded-method", b"x-forwarded-uri"),
    (b"x-original-method", b"x-original-uri"),
)
_NAMES: Final = frozenset([name for pair in _PAIRS for name in pair])


def original_request(asked: Request, trusts: Callable[[str], bool], most_wait_us: int) -> Request:
    """Return the request that a gateway asks about. Raises InvalidDocument.

    `trusts`: whether an address in X-Forwarded-For is that of a proxy before the gateway.
    """
    method, target = _method_and_target(asked.fields)
    address = client_in_list("", tokens(asked.forwarded_for), trusts)
    request = gateway_request(method, target, (), address, most_wait_us=most_wait_us)
    request.fields = asked.fields
    request.api_keys = asked.api_keys
    request.authorizations = asked.authorizations
    request.prefer = asked.prefer
    request.accepts = asked.accepts
    request.content_type = asked.content_type
    request.content_encodings = asked.content_encodings
    request.content_length = asked.content_length
    request.chunked = asked.chunked
    return request


def _method_and_target(fields: Iterable[tuple[bytes, bytes]]) -> tuple[str, bytes]:
    given: dict[bytes, bytes] = {}
    for name, line in fields:
        if name in _NAMES:
            value = line.partition(b":")[2].strip()
            if given.setdefault(name, value) != value:
                raise InvalidDocument(_shown(name), "has two values")
    found = [_pair(given, *pair) for pair in _PAIRS if pair[0] in given or pair[1] in given]
    if not found:
        raise InvalidDocument("X-Forwarded-Method", "is missing")
    if found[0] != found[-1]:
        raise InvalidDocument("X-Original-URI", "differs from X-Forwarded-Uri, or the methods do")
    return found[0]


def _pair(given: dict[bytes, bytes], method: bytes, uri: bytes) -> tuple[str, bytes]:
    for name in (method, uri):
        if name not in given:
            raise InvalidDocument(_shown(name), "is missing: set method and URI together")
    if not METHOD.fullmatch(given[method].decode("latin-1")):
        raise InvalidDocument(_shown(method), "is not an HTTP method in capital letters")
    target = given[uri]
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is not None:
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if not is_target(target):
        raise InvalidDocument(_shown(uri), "is not a path with its query")
    return given[method].decode("ascii"), target


def _shown(name: bytes) -> str:
    return name.decode().title().replace("-Uri", "-URI" if b"original" in name else "-Uri")
