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
_DIGITS: Final = b"0123456789"
# Names are compared in lower case, without punctuation, digits at the end and the plural's "s".
_EXACT: Final = frozenset({b"hmac", b"key", b"pass", b"pin", b"session", b"sid", b"tok"})
_KINDS_OF_KEYS: Final = (
    b"access", b"account", b"admin", b"api", b"app", b"application", b"auth", b"client",
    b"consumer", b"encryption", b"function", b"functions", b"license", b"master", b"private",
    b"secret", b"service", b"session", b"shared", b"signing", b"storage", b"subscription", b"user",
)  # fmt: skip
_SUFFIXES: Final = (
    b"assertion", b"auth", b"authorization", b"bearer", b"cookie", b"credential", b"dpop",
    b"googleaccessid", b"jws", b"jwt", b"otp", b"passphrase", b"passwd", b"password", b"pwd",
    b"samlresponse", b"secret", b"sessid", b"sessionid", b"sig", b"signature", b"token",
    b"accesscode", b"authcode", b"otpcode", b"passcode", b"securitycode",
    *(kind + b"key" for kind in _KINDS_OF_KEYS), *(kind + b"keyid" for kind in _KINDS_OF_KEYS),
)  # fmt: skip
# Positions in a list, and numbers: page_token, nextToken, continuation-token, max_tokens.
_NO_CREDENTIALS: Final = (b"tokens", *(
    before + b"token"
    for before in (
        b"page", b"next", b"prev", b"previous", b"continuation", b"continue", b"cursor", b"sync",
        b"start", b"delta", b"resume", b"pagination", b"skip",
    )
))  # fmt: skip


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
        if not query:
            return StoredTarget(target, ())
        parts = _SEPARATORS.split(query)  # parameters, with the separators between them
        names = [part.partition(b"=")[0] for part in parts[::2]]
        omitted = {name: None for name in dict.fromkeys(names) if self._is_credential(name)}
        if not omitted:
            return StoredTarget(target, ())
        kept: list[bytes] = []
        for at, name in enumerate(names):
            if name not in omitted:
                kept += parts[2 * at - 1 : 2 * at] if kept else []
                kept.append(parts[2 * at])
        rest = b"".join(kept)
        stored = path + mark + rest if rest else path
        return StoredTarget(stored, tuple(name.decode("latin-1") for name in omitted))

    def _is_credential(self, name: bytes) -> bool:
        if b"%" in name or b"+" in name:
            name = unquote_to_bytes(unquote_to_bytes(name.replace(b"+", b" ")))
        return bool(name) and is_credential(name) and name not in self.parameters


def is_credential(name: bytes) -> bool:
    """Whether a query parameter may be a credential, by its decoded name.

    Case and punctuation do not matter: `X-Amz-Signature`, `user[api_key]` and `accessToken` fit.
    """
    plain = name.lower() if name.isalnum() else _NOT_ALPHANUMERIC.sub(b"", name.lower())
    plain = plain.rstrip(_DIGITS)
    if plain in _EXACT:
        return True
    if plain.endswith(_NO_CREDENTIALS):
        return False
    return plain.endswith(_SUFFIXES) or plain.removesuffix(b"s").endswith(_SUFFIXES)
