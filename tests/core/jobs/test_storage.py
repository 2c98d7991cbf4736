"""What a job stores of a request and of its response: no credentials."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.jobs.storage import (
    NEVER,
    REQUEST_FIELDS,
    RESPONSE_FIELDS,
    StorageRules,
    is_credential,
)

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "jobs.md"

STANDARD = StorageRules()
# Those that strangers tried (security/11_jobs), and more of their kind.
CREDENTIALS = [
    "Authorization", "Cookie", "Cookie2", "Proxy-Authorization", "X-Auth-Token", "X-AuthToken",
    "X-AccessToken", "X-Access-Key", "X-Amz-Security-Token", "Ocp-Apim-Subscription-Key",
    "X-Functions-Key", "DPoP", "X-Signature", "X-Goog-Api-Key", "Apikey", "X-ApiKeys",
    "X-Session-Id", "X-SessionId", "PHPSESSID", "X-Private-Key", "X-User-Pass", "X-Otp",
    "X-Pin", "X-Bearer", "X-Client-Cert", "X-SSL-Client-Cert", "X-Amzn-Oidc-Data",
    "X-Vault-Tok", "X-Tokens", "X-Id-Token", "Basic", "X-Secret-Key", "X-Key", "api_key",
    "X_Api_Key", "X-Api-Key2", "X-Cert", "X-Goog-Iap-Jwt-Assertion", "Cf-Access-Jwt-Assertion",
    "X-Shopify-Access-Token", "Private-Token", "X-Consumer-Secret", "Signature",
    "Signature-Input", "Authentication-Info", "X-Forwarded-Access-Token", "Sec-Token-Binding",
    "X-Hub-Signature-256", "X-Plex", "Any-Name-At-All",
]  # fmt: skip
STORED = [
    "Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Encoding",
    "Content-Language", "Content-Digest", "Content-Disposition", "User-Agent",
    "Idempotency-Key", "If-Match", "If-None-Match", "Range", "traceparent", "tracestate",
    "Api-Version", "X-Correlation-Id", "Cache-Control",
]  # fmt: skip


def field(name: str, value: str = "some value") -> tuple[bytes, bytes]:
    return name.lower().encode(), f"{name}: {value}\r\n".encode()


@pytest.mark.parametrize("name", CREDENTIALS)
def test_security_11_a_field_that_is_not_listed_is_not_stored(name: str) -> None:
    assert STANDARD.request_fields([field(name)]).fields == ()
    assert STANDARD.response_fields([field(name)]) == ()


@pytest.mark.parametrize("name", STORED)
def test_metadata_of_a_request_is_stored(name: str) -> None:
    assert STANDARD.request_fields([field(name)]) == ((field(name),), ())


@pytest.mark.parametrize("name", ["Content-Type", "ETag", "Location", "Link", "Retry-After"])
def test_metadata_of_a_response_is_stored(name: str) -> None:
    assert STANDARD.response_fields([field(name)]) == (field(name),)


def test_a_setting_adds_fields_but_never_the_sidecars_credentials_or_cookies() -> None:
    rules = StorageRules(fields=frozenset({b"x-tenant", b"cookie", b"authorization"}))
    fields = [field("X-Tenant"), field("Cookie"), field("Authorization")]
    assert rules.request_fields(fields) == ((field("X-Tenant"),), ("cookie",))
    assert rules.response_fields(fields) == (field("X-Tenant"),)


def test_fields_that_are_not_stored_are_named_once() -> None:
    fields = [field("X-One"), field("X-One"), field("X-Api-Key"), field("Prefer", "wait=1")]
    assert STANDARD.request_fields(fields) == ((), ("x-one",))


def test_preferences_that_the_sidecar_applies_are_not_stored() -> None:
    def stored(value: str) -> list[bytes]:
        fields = STANDARD.request_fields([field("prefer", value)]).fields
        return [line for _, line in fields]

    assert stored("respond-async, wait=10") == []
    assert stored('respond-async, return=minimal; x="a, b"') == [
        b'Prefer: return=minimal; x="a, b"\r\n',
    ]


@pytest.mark.parametrize(
    "name",
    ["api_key", "apikey", "API-Key", "x-api-key", "key", "access_token", "accessToken",
     "auth_token", "token", "id_token", "refresh_token", "client_secret", "secret", "password",
     "passwd", "pwd", "pass", "pin", "otp", "sig", "signature", "X-Amz-Signature",
     "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "GoogleAccessId",
     "AWSAccessKeyId", "subscription-key", "session_id", "PHPSESSID", "sid", "jwt", "auth",
     "authorization", "user[api_key]", "credentials.password", "api_key[]", "SAMLResponse",
     "session", "hmac", "client_assertion", "code_secret", "_token", "to_ken", "oauth_signature",
     "auth_sig", "basic_auth", "token2", "secrets", "passcode", "app_key", "DD-APPLICATION-KEY",
     "api_keys", "pwd1"],
)  # fmt: skip
def test_a_query_parameter_is_a_credential_by_its_name(name: str) -> None:
    assert is_credential(name.encode())


@pytest.mark.parametrize(
    "name",
    ["page_token", "pageToken", "next_token", "continuation-token", "sync_token", "max_tokens",
     "tokens", "token_type", "keys", "keyword", "author", "passenger", "pinned", "side", "signal",
     "design", "q", "", "monkey", "sort_key", "partition_key", "secretary", "X-Amz-Date",
     "signed", "authors", "key_size", "country_code", "code", "idempotency_key", "public_key",
     "tokenizer", "access", "pas", "sessions_count"],
)  # fmt: skip
def test_other_query_parameters_are_not_credentials(name: str) -> None:
    assert not is_credential(name.encode())


@pytest.mark.parametrize(
    ("target", "stored", "omitted"),
    [
        (b"/x", b"/x", ()),
        (b"/x?", b"/x?", ()),
        (b"/x?a=1&&b", b"/x?a=1&&b", ()),
        (b"/x?api_key=s", b"/x", ("api_key",)),
        (b"/x?a=1&api_key=s&b=%20", b"/x?a=1&b=%20", ("api_key",)),
        (b"/x?token=s;a=1", b"/x?a=1", ("token",)),
        (b"/x?a=1;token=s&b", b"/x?a=1&b", ("token",)),
        (b"/x?api%5Fkey=s&a", b"/x?a", ("api%5Fkey",)),
        (b"/x?api%255Fkey=s&a", b"/x?a", ("api%255Fkey",)),
        (b"/x?%61pikey=s&sig=t&sig=u", b"/x", ("%61pikey", "sig")),
        (b"/x?api+key=s", b"/x", ("api+key",)),
        (b"/x?a=token&b=api_key=s", b"/x?a=token&b=api_key=s", ()),
    ],
)
def test_credentials_in_a_query_are_not_stored(
    target: bytes, stored: bytes, omitted: tuple[str, ...]
) -> None:
    assert STANDARD.request_target(target) == (stored, omitted)


def test_a_setting_names_parameters_that_are_no_credentials() -> None:
    rules = StorageRules(parameters=frozenset({b"key", b"pin"}))
    assert rules.request_target(b"/x?key=1&pin=2&token=3") == (b"/x?key=1&pin=2", ("token",))


@given(st.lists(st.sampled_from([b"a=1", b"b", b"", b"=", b"token=s", b"%61pi_key=s"])))
def test_only_credentials_are_taken_from_a_query(parts: list[bytes]) -> None:
    target = b"/x?" + b"&".join(parts)
    kept = [one for one in parts if not one.endswith(b"s")]
    stored, omitted = STANDARD.request_target(target)
    if not omitted:
        assert stored == target
    else:
        assert stored.partition(b"?")[2] == b"&".join(kept)


def test_the_lists_of_fields_are_documented() -> None:
    def documented(first_cell: str) -> set[bytes]:
        [row] = re.findall(rf"^\| {first_cell} \|(.+)\|$", DOCS.read_text(), re.MULTILINE)
        return {name.lower().encode() for name in re.findall(r"`([^`]+)`", row)}

    both = documented("both")
    assert both | documented("requests") == REQUEST_FIELDS
    assert both | documented("responses") == RESPONSE_FIELDS
    assert documented("neither, also with `--job-fields`") == NEVER
    assert both == REQUEST_FIELDS & RESPONSE_FIELDS
