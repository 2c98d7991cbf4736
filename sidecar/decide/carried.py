"""A refusal that nginx carries in a header field, since its auth_request drops bodies."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from typing import Final, NamedTuple

import orjson

from sidecar.decide.answers import REFUSAL
from sidecar.decide.documents import InvalidDocument
from sidecar.proxy.responses import PHRASES

_FIELD: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_VALUE: Final = re.compile(r"[ -~\x80-\U0010ffff]*")
_NAME: Final = REFUSAL.lower()
_WRONG: Final = "is not a refusal of this port"


class CarriedRefusal(NamedTuple):
    """A whole response."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes


def parse_refusal(fields: Iterable[tuple[bytes, bytes]]) -> CarriedRefusal:
    """Return the refusal in the X-Refusal field. Raises InvalidDocument."""
    lines = [line.partition(b":")[2].strip() for name, line in fields if name == _NAME]
    if len(lines) != 1:
        raise InvalidDocument(REFUSAL.decode(), "is needed once")
    try:
        document = orjson.loads(urlsafe_b64decode(lines[0]))
        status, named, body = document["status"], document["headers"], document["body"]
        pairs = [(name.encode(), value.encode()) for name, value in named.items()]
        content = body.encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidDocument(REFUSAL.decode(), _WRONG) from None
    valid = all(_FIELD.fullmatch(name) and _VALUE.fullmatch(named[name]) for name in named)
    if not valid or status not in PHRASES or status < 400:
        raise InvalidDocument(REFUSAL.decode(), _WRONG)
    return CarriedRefusal(status, pairs, content)
