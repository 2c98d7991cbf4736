"""The content type that an Accept field prefers (RFC 9110, section 12.5.1)."""

import pytest

from sidecar.proxy.responses import MAX_MEMBERS, prefers_text


@pytest.mark.parametrize(
    "accept",
    [
        b"text/plain",
        b"TEXT/Plain ",
        b"text/*",
        b"text/plain, application/json;q=0",
        b"text/plain, application/json; q=0.0",
        b"text/plain;q=0.3, application/json;q=0.2",
        b"text/plain;q=0.501,application/problem+json;q=0.5",
        b"text/plain, */*;q=0.1",
        b"*/*;q=0.1, text/plain",
        b"*/*, application/json;q=0, application/problem+json;q=0",
        b"text/*;q=0.1",
        b"text/plain;charset=utf-8",
        b"text/plain;format=flowed;q=0.4, application/*;q=0.2",
        b"text/html, text/plain;q=0.001",
        b"*/*, application/*;q=0.5",
        b"application/json;q=high, text/plain;q=0.1",
    ],
)
def test_text_is_preferred(accept: bytes) -> None:
    assert prefers_text(accept)


@pytest.mark.parametrize(
    "accept",
    [
        b"",
        b"*/*",
        b"application/json",
        b"application/problem+json, text/plain",
        b"text/plain;q=0",
        b"text/plain;q=0.000, */*;q=0",
        b"text/plain, application/json",
        b"text/plain;q=0.9, application/json",
        b"text/plain;q=0.2, */*;q=0.5",
        b"text/*;q=0.5, */*;q=0.6",
        b"text/html",
        b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        b"image/png",
        b"text/plain;q=1.5",
        b"text/plain;q=-1",
        b"text/plain;q=",
        b"text/plain;q=0.1234",
        b"application/json;q=0",
        b",;q=1,,;",
        b"text/plainer, text",
    ],
)
def test_json_is_the_default(accept: bytes) -> None:
    assert not prefers_text(accept)


def test_I9_the_number_of_members_is_limited() -> None:
    fillers = b"image/png," * (MAX_MEMBERS - 1)
    assert prefers_text(fillers + b"text/plain")
    assert not prefers_text(fillers + b"image/gif,text/plain")
    assert not prefers_text(b"," * 30_000 + b"text/plain")
