"""Signatures after Standard Webhooks, and retries."""

import base64
import hashlib
import hmac

import pytest

from sidecar.core.jobs.webhook_signing import (
    RETRY_SPANS_US,
    account_secret,
    next_retry_us,
    parse_secret,
    signature_fields,
)

# Reference values of the specification's library, standardwebhooks 1.1.0.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, SENT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signature_equals_that_of_the_reference_library() -> None:
    assert signature_fields(SECRET, MESSAGE, SENT, BODY) == {
        "webhook-id": MESSAGE, "webhook-timestamp": str(SENT), "webhook-signature": SIGNATURE,
    }  # fmt: skip


def test_each_account_has_its_own_secret_which_verifies_signatures() -> None:
    one, other = account_secret(b"m" * 32, "acme"), account_secret(b"m" * 32, "other")
    assert one != other
    assert len(parse_secret(one)) == 32
    content = b"id.7.body"
    digest = hmac.new(base64.b64decode(one[6:]), content, hashlib.sha256).digest()
    assert signature_fields(one, "id", 7, b"body")["webhook-signature"] == (
        "v1," + base64.b64encode(digest).decode()
    )


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", SECRET[6:]])
def test_an_invalid_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and 24 bytes") as refused:
        parse_secret(text)
    assert not text or text == "whsec_" or text not in str(refused.value)


def test_a_webhook_is_retried_for_about_an_hour() -> None:
    at, spans = 0, []
    while (span := next_retry_us(at)) is not None:
        spans.append(span)
        at += span
    assert tuple(spans) == RETRY_SPANS_US
    assert next_retry_us(at) is None
