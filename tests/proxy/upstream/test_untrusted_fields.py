"""Fields that choose another path, address, method or identity do not pass from a client."""

import pytest

from sidecar.proxy.field_rules import (
    DROP,
    FORWARD,
    FROM_TRUSTED,
    LONGEST_KNOWN,
    MAX_KNOWN,
    _known,
    rule_of,
)
from tests.support.stage import StartStage, status

REWRITING = (
    "X-Original-URI", "X-Original-URL", "X-Original-Host", "X-Original-Method", "X-Rewrite-URL",
    "X-Forwarded-Prefix", "X-Forwarded-Path", "X-Forwarded-Uri", "X-Forwarded-Port",
    "X-Forwarded-Server", "X-Forwarded-Client-Cert", "X-Forwarded-User", "X-Forwarded",
    "X-Envoy-Original-Path", "X-Envoy-External-Address", "X-Script-Name", "X-Replaced-Path",
    "X-Middleware-Subrequest", "X-Accel-Mapping", "X-Request-URI", "X-Host", "X-Scheme",
    "True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "X-Client-IP", "Client-IP",
    "X-Cluster-Client-IP", "Fastly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP", "X-Real-IP",
    "X-Remote-Addr", "X-Remote-IP", "X-Remote-User", "X-Originating-IP", "WL-Proxy-Client-IP",
    "Proxy-Client-IP", "X-ProxyUser-Ip", "Fly-Client-IP", "X-AppEngine-User-IP", "Incap-Client-IP",
    "CloudFront-Viewer-Address", "X-Nf-Client-Connection-Ip", "X-Vercel-Forwarded-For",
    "X-Auth-Request-User", "X-Authenticated-Userid", "X-Consumer-Username", "X-Client-Cert",
    "X-SSL-Client-Verify", "SSL-Client-Cert", "X-Amzn-Oidc-Data", "X-MS-Client-Principal",
    "X-Goog-Authenticated-User-Email", "X-MS-Original-URL", "X-WAWS-Unencoded-URL",
    "X-Servlet-Path",
    "X-Context-Path", "X-Url-Prefix", "X-Backend-Host", "X-Sendfile", "Proxy-Host", "Http-Url",
    "X-Proto", "X-Custom-IP-Authorization", "X-IP", "Ip-Address", "X-Caller-IP", "X-EndUser-IP",
    "X-Device-IP-Address", "X-Real-Port", "RLNClientIPAddr", "X-JWT-Assertion", "X-Vouch-User",
    "X-Apigateway-Api-Userinfo", "X-Endpoint-API-UserInfo", "Tailscale-User-Login", "X-ClientCert",
)  # fmt: skip
NEVER = (
    "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "Proxy", "Script-Name",
    "Path-Info", "X-Account-Id", "X-Plan", "X-Quota-Remaining", "X-Consumer-Id",
)  # fmt: skip
OTHER_SPELLINGS = (
    "Transfer_Encoding", "Transfer.Encoding", "Content_Length", "X_Account_Id", "X_Forwarded_For",
    "X_Forwarded_Prefix", "X_Original_URL", "True_Client_IP", "CF_Connecting_IP", "X_Api_Key",
    "X-Real_IP", "Keep_Alive", "Proxy_Connection", "Content_Type", "X_HTTP_Method_Override",
    "Max_Forwards", "Script_Name", "X_Remote_User", "SSL_Client_Cert",
)  # fmt: skip
HONEST = (
    "X-Custom", "X_Custom", "X-Client-Version", "X-Client-Info", "X-Url-Count", "CDN-Loop",
    "Origin", "Referer", "X-Requested-With", "X-Amzn-Trace-Id", "X-MS-Client-Request-Id",
    "X-Anonymous-Id",
    "X-Tenant", "Idempotency-Key", "X-Stainless-OS", "OpenAI-Organization", "anthropic-version",
    "Sec-WebSocket-Key", "If-None-Match", "X-Hub-Signature-256", "X-Device-Id", "X-Zip", "X-Ship",
    "X-Customer-Address", "X-Device-Name", "X-Recipe", "X-Callback-Url", "Destination",
    "baggage", "b3", "X-B3-TraceId", "X-Correlation-Id", "DPoP", "Priority", "Range", "X-Vip",
)  # fmt: skip


async def forwarded(here: StartStage, names: tuple[str, ...], **flags: str) -> set[str]:
    """The fields of these names that arrive at the API."""
    stage = await here(max_headers="200", **flags)
    lines = "".join(f"{name}: value-{number}\r\n" for number, name in enumerate(names))
    head = f"GET /items HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n{lines}\r\n"
    assert status(await stage.raw(head.encode())) == 200
    received = stage.upstream.received.decode()
    return {name for number, name in enumerate(names) if f": value-{number}\r\n" in received}


async def test_rewriting_fields_of_an_untrusted_peer_do_not_pass(stage: StartStage) -> None:
    assert await forwarded(stage, REWRITING) == set()


async def test_rewriting_fields_of_a_trusted_proxy_pass(stage: StartStage) -> None:
    assert await forwarded(stage, REWRITING, trusted_proxies="127.0.0.1") == set(REWRITING)


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"], ids=["untrusted", "trusted"])
async def test_own_fields_overrides_and_other_spellings_never_pass(
    stage: StartStage, trusted: str
) -> None:
    names = NEVER + OTHER_SPELLINGS
    assert await forwarded(stage, names, trusted_proxies=trusted) == set()


async def test_other_fields_pass_from_everywhere(stage: StartStage) -> None:
    assert await forwarded(stage, HONEST) == set(HONEST)


@pytest.mark.parametrize("name", [*REWRITING, *NEVER, *OTHER_SPELLINGS])
async def test_no_such_field_passes_as_a_trailer(stage: StartStage, name: str) -> None:
    here = await stage(trusted_proxies="127.0.0.1")
    body = f"1\r\na\r\n0\r\n{name}: value-1\r\nX-Sum: 1\r\n\r\n"
    head = "POST /items HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nTE: trailers\r\n"
    request = f"{head}Transfer-Encoding: chunked\r\n\r\n{body}"
    assert status(await here.raw(request.encode())) == 200
    assert b"value-1" not in here.upstream.received


def test_a_rule_is_known_for_any_number_of_names() -> None:
    rules = {rule_of(b"x-name-%d" % number) for number in range(20_000)}
    assert rules == {FORWARD}
    assert rule_of(b"x-real-ip") == FROM_TRUSTED
    assert rule_of(b"x_real_ip") == DROP
    assert rule_of(b"a-" * 120 + b"client-ip") == FROM_TRUSTED


def test_I9_the_rules_of_made_up_names_are_not_kept_without_bound() -> None:
    for number in range(MAX_KNOWN + 10):
        assert rule_of(b"x-made-up-%d" % number) == FORWARD
        assert rule_of(b"x-made-up-%0100d" % number) == FORWARD
    assert 0 < len(_known) <= MAX_KNOWN
    assert max(map(len, _known)) <= LONGEST_KNOWN
