"""Headers → API key → SHA-256 digest."""

import hashlib

import pytest

from sidecar.core.identity import AmbiguousCredential, anonymous_key, credential, key_digest


@pytest.mark.parametrize(
    ("api_keys", "authorizations", "expected"),
    [
        ([], [], None),
        ([b"k"], [], b"k"),
        ([b" k\t"], [], b"k"),
        ([b""], [], b""),
        ([], [b"Bearer k"], b"k"),
        ([], [b"bearer   k  "], b"k"),
        ([], [b"BEARER\tk"], b"k"),
        ([], [b"Bearer"], b""),
        ([], [b"Bearer   "], b""),
        ([], [b"Basic dTpw"], None),
        ([], [b"Bearerish k"], None),
        ([], [b""], None),
        ([b"k"], [b"Basic dTpw"], b"k"),
        ([b"k"], [b"Bearer k"], b"k"),
    ],
)
def test_a_credential_is_found_in_either_header(
    api_keys: list[bytes], authorizations: list[bytes], expected: bytes | None
) -> None:
    assert credential(api_keys, authorizations) == expected


@pytest.mark.parametrize(
    ("api_keys", "authorizations"),
    [
        ([b"k", b"k"], []),
        ([b"k", b"other"], []),
        ([], [b"Bearer k", b"Bearer k"]),
        ([], [b"Basic dTpw", b"Bearer k"]),
        ([b"k"], [b"Bearer other"]),
        ([b""], [b"Bearer k"]),
        ([b"k"], [b"Bearer"]),
    ],
)
def test_two_credentials_are_refused(api_keys: list[bytes], authorizations: list[bytes]) -> None:
    with pytest.raises(AmbiguousCredential) as caught:
        credential(api_keys, authorizations)
    assert "other" not in str(caught.value)


def test_a_key_digest_is_sha256() -> None:
    assert key_digest(b"secret") == hashlib.sha256(b"secret").digest()


@pytest.mark.parametrize(
    ("address", "account"),
    [
        ("192.0.2.7", "anonymous/192.0.2.7"),
        ("::ffff:192.0.2.7", "anonymous/192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "anonymous/2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "anonymous/2001:db8:1:2::/64"),
        ("fe80::1%eth0", "anonymous/fe80::/64"),
        ("", "anonymous/unknown"),
        ("not an address", "anonymous/unknown"),
        ("1.2.3.4.5", "anonymous/unknown"),
    ],
)
def test_a_request_without_an_api_key_has_the_account_of_its_address(
    address: str, account: str
) -> None:
    key = anonymous_key(address, "free")
    assert (key.id, key.account.id, key.account.plan) == ("anonymous", account, "free")
