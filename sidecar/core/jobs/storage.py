"""The part of a request and of its response that a job stores: no credentials.

Header fields are stored by an allow list, since a credential may have any name. A query has no
names that all APIs share, so its parameters are stored unless their names fit a pattern.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from sidecar.core.jobs.job import Field
from sidecar.core.jobs.prefer import RESPOND_ASYNC, preference_name, preferences

QueryRule = Literal["drop", "refuse"]

_BOTH: Final = frozenset(
    {b"cache-control", b"content-digest", b"content-disposition", b"content-encoding",
     b"content-language", b"content-location", b"content-md5", b"content-range", b"content-type",
     b"date", b"digest", b"link", b"pragma", b"repr-digest", b"x-correlation-id"}
)  # fmt: skip
REQUEST_FIELDS: Final = _BOTH | {
    b"accept", b"accept-charset", b"accept-datetime", b"accept-encoding", b"accept-language",
    b"accept-patch", b"accept-profile", b"accept-version", b"api-version", b"content-profile",
    b"idempotency-key", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
    b"if-unmodified-since", b"origin", b"prefer", b"priority", b"range", b"slug", b"traceparent",
    b"tracestate", b"user-agent", b"want-content-digest", b"want-repr-digest", b"x-api-version",
    b"x-requested-with",
}  # fmt: skip
RESPONSE_FIELDS: Final = _BOTH | {
    b"accept-ranges", b"age", b"allow", b"deprecation", b"etag", b"expires", b"last-modified",
    b"location", b"preference-applied", b"ratelimit", b"ratelimit-policy", b"retry-after",
    b"server", b"server-timing", b"sunset", b"vary", b"warning", b"x-total-count",
}  # fmt: skip
# No setting adds these. The first two are the sidecar's own credentials.
_OWN: Final = frozenset({b"authorization", b"x-api-key"})
NEVER: Final = _OWN | {b"proxy-authorization", b"cookie", b"cookie2", b"set-cookie", b"set-cookie2"}
_APPLIED: Final = (RESPOND_ASYNC, b"wait", b"")  # preferences that the sidecar applies itself

_SEPARATORS: Final = re.compile(rb"([&;])")
_NOT_ALPHANUMERIC: Final = re.compile(rb"[^a-z0-9]+")
_CREDENTIAL: Final = re.compile(
    rb"(?:.*(?:assertion|auth|authorization|bearer|cookie|credential|dpop|googleaccessid|jws|jwt"
    rb"|otp|passphrase|passwd|password|pwd|samlresponse|secret|sessid|sessionid|sig|signature|token"
    rb"|(?:access|auth|otp|pass|security)code"
    rb"|(?:access|account|admin|api|app|application|auth|client|consumer|encryption|functions?"
    rb"|license|master|private|secret|service|session|shared|signing|storage|subscription|user)"
    rb"key(?:id)?)"
    rb"|hmac|key|pass|pin|session|sid|tok)[0-9]{0,3}"
)
# Positions in a list, not credentials: page_token, nextToken, continuation-token.
_POSITION: Final = re.compile(
    rb".*(?:page|next|prev|previous|continuation|continue|cursor|sync|start|delta|resume"
    rb"|pagination|skip)token"
)


class StoredFields(NamedTuple):
    """The fields that a job stores, and the names of others that the client has sent."""

    fields: tuple[Field, ...]
    omitted: tuple[str, ...]


class StoredTarget(NamedTuple):
    """The path and query that a job stores, and the names of parameters that are left out."""

    target: bytes
    omitted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StorageRules:
    """What jobs store in addition to the standard, from the settings.

    `fields` are lower-case names of header fields, `parameters` names of query parameters that are
    no credentials. `query`: whether a request with a credential in its query is stored without
    it, or not at all.
    """

    fields: frozenset[bytes] = frozenset()
    parameters: frozenset[bytes] = frozenset()
    query: QueryRule = "drop"

    def request_fields(self, fields: Iterable[Field]) -> StoredFields:
        """Return the fields without those that the allow lists do not name.

        Preferences that the sidecar has applied are left out as well.
        """
        stored: list[Field] = []
        omitted: dict[str, None] = {}
        for name, line in fields:
            if name == b"prefer":
                value = line.partition(b":")[2].strip(b" \t\r\n")
                rest = [one for one in preferences(value) if preference_name(one) not in _APPLIED]
                if rest:
                    stored.append((name, b"Prefer: %b\r\n" % b", ".join(rest)))
            elif name in REQUEST_FIELDS or (name in self.fields and name not in NEVER):
                stored.append((name, line))
            elif name not in _OWN:
                omitted[name.decode("latin-1")] = None
        return StoredFields(tuple(stored), tuple(omitted))

    def response_fields(self, fields: Iterable[Field]) -> tuple[Field, ...]:
        """Return the fields of a response that its job stores."""
        return tuple(
            (name, line)
            for name, line in fields
            if name in RESPONSE_FIELDS or (name in self.fields and name not in NEVER)
        )

    def request_target(self, target: bytes) -> StoredTarget:
        """Return the target without query parameters that may be credentials."""
        path, mark, query = target.partition(b"?")
        parts = _SEPARATORS.split(query)  # parameters, with the separators between them
        kept: list[bytes] = []
        omitted: dict[str, None] = {}
        for at in range(0, len(parts), 2):
            name = parts[at].partition(b"=")[0]
            if self._is_credential(name):
                omitted[name.decode("latin-1")] = None
            else:
                kept += parts[at - 1 : at] if kept else []
                kept.append(parts[at])
        if not omitted:
            return StoredTarget(target, ())
        rest = b"".join(kept)
        return StoredTarget(path + mark + rest if rest else path, tuple(omitted))

    def _is_credential(self, name: bytes) -> bool:
        decoded = unquote_to_bytes(unquote_to_bytes(name.replace(b"+", b" ")))
        return decoded not in self.parameters and is_credential(decoded)


def is_credential(name: bytes) -> bool:
    """Whether a query parameter may be a credential, by its decoded name.

    Case and punctuation do not matter: `X-Amz-Signature`, `user[api_key]` and `accessToken` fit.
    """
    plain = _NOT_ALPHANUMERIC.sub(b"", name.lower())
    return (
        any(map(_CREDENTIAL.fullmatch, (plain, _singular(plain))))
        and _POSITION.fullmatch(plain) is None
    )


def _singular(name: bytes) -> bytes:
    """Return a name without the plural's "s". `max_tokens` and the like are numbers."""
    return name if name.endswith(b"tokens") else name.removesuffix(b"s")
