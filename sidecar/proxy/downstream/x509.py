"""The expiry of a certificate, which the standard library does not expose.

RFC 5280, section 4.1: Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version
OPTIONAL, serialNumber, signature, issuer, validity SEQUENCE { notBefore, notAfter }, … } … }
"""

import ssl
from datetime import UTC, datetime
from typing import Final

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17  # a year of two digits: 50 and above are in the 20th century
_GENERALIZED_TIME: Final = 0x18


def not_after(pem: str) -> float:
    """When the first certificate in the text expires, in seconds since the epoch.

    Raises ValueError if the text has no certificate.
    """
    start = pem.find(_BEGIN)
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError("the file has no certificate")
    der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
    try:
        return _expiry(der)
    except IndexError:
        raise ValueError("the certificate is truncated") from None


def _expiry(der: bytes) -> float:
    at, _ = _inside(der, 0)
    at, _ = _inside(der, at)
    if der[at] == _VERSION:
        at = _after(der, at)
    for _ in range(3):  # serialNumber, signature, issuer
        at = _after(der, at)
    at, _ = _inside(der, at)
    at = _after(der, at)  # notBefore
    start, end = _bounds(der, at)
    return _seconds(der[at], der[start:end].decode("ascii"))


def _inside(der: bytes, at: int) -> tuple[int, int]:
    if der[at] != _SEQUENCE:
        raise ValueError("the certificate does not follow RFC 5280")
    return _bounds(der, at)


def _after(der: bytes, at: int) -> int:
    return _bounds(der, at)[1]


def _bounds(der: bytes, at: int) -> tuple[int, int]:
    """The start and end of the content of the element at `at` (X.690, section 8.1.3)."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    return start, start + length


def _seconds(kind: int, text: str) -> float:
    if kind == _UTC_TIME:
        century = "19" if int(text[:2]) >= 50 else "20"
        text = century + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("the certificate has no expiry date")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
