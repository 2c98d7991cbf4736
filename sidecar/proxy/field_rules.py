"""Names of request fields that a client must not choose, and what happens to them.

An upstream trusts some fields because a proxy in front of it usually writes them: the client's
address, the path before a rewrite, a checked identity. From a trusted proxy they pass. From anyone
else they would let a client choose its address, or another path than the one that was priced.
"""

import re
from typing import Final

from sidecar.proxy.headers import NOT_FORWARDED

FORWARD: Final = 0
DROP: Final = 1  # from any peer
FROM_TRUSTED: Final = 2  # forwarded for a trusted proxy, else dropped
MAX_KNOWN: Final = 4_096  # names whose rule is kept
LONGEST_KNOWN: Final = 64  # bytes of such a name

# With these, an upstream serves another method than the one that was priced, or takes the sidecar
# for another program (`Proxy`: RFC 3875, section 9.4, as HTTP_PROXY).
_DROPPED: Final = re.compile(rb"x-(?:http-)?method(?:-.*)?|(?:http-)?method-override|proxy")

_PATHS: Final = (
    rb"x-original-.*|x-rewrite-.*|x-rewritten-.*|x-replaced-path|x-matched-path|x-script-name|"
    rb"x-path-info|x-request-uri|request-uri|x-base-path|x-ingress-path|x-middleware-.*|"
    rb"x-invoke-(?:path|query|status|error|output)|x-now-route-matches|x-http-destinationurl|"
    rb"x-http-(?:path|host)-override|x-host|x-host-override|x-backend-host|x-accel-.*|"
    rb"x-sendfile(?:-.*)?|(?:x-)?proxy-(?:url|uri|path|host)|(?:x-)?http-(?:url|uri)|"
    rb"x-(?:iis-|ms-)original-url|x-waws-unencoded-url|x-(?:servlet|context|traefik|gateway)-path|"
    rb"x-(?:url|path)-prefix|x-override-(?:url|uri|path)|x-request-(?:url|path)"
)
_PROXIES: Final = (
    rb"x-forwarded(?:-.*)?|x-forwarder-for|x-forward-.*|forwarded-.*|x-envoy-.*|x-azure-.*|"
    rb"x-appengine-.*|x-appgw-.*|x-arr-.*|x-akamai-.*|akamai-.*|x-sucuri-.*|incap-.*|cf-.*|"
    rb"cloudfront-.*|fastly-(?:client-.*|ff|ssl)|fly-(?:client-.*|forwarded-.*)|"
    rb"x-vercel-(?:forwarded-for|proxied-for|ip-.*)|x-scheme|x-url-scheme|x-proto|x-protocol|"
    rb"front-end-https|x-https|http-x-.*"
)
_ADDRESSES: Final = (
    rb"(?:.*-|rln)?(?:client|real|remote|connecting|connection|src|source|origin|originating|true|"
    rb"user|proxyuser|peer|viewer)-?(?:ip|ipv4|ipv6|ip-?addr|ip-?address|addr|address)|"
    rb"(?:.*-)?(?:enduser|visitor|caller|requester|customer|device|browser|from|trusted)-?ip"
    rb"(?:v4|v6|-?addr|-?address)?|x-originating-.*|"
    rb"x-cluster-client-.*|true-client-.*|x-client-(?:host|port|ip-port)|x-real-port|"
    rb"(?:x-)?ip(?:-?addr|-?address)?|x-custom-ip-authorization|(?:x-)?coming-from"
)
_IDENTITIES: Final = (
    rb"x-remote-.*|remote-user|x-consumer-.*|x-credential-(?:identifier|username)|"
    rb"x-authenticated-.*|x-anonymous-consumer|x-auth-request-.*|x-authentik-.*|x-pomerium-.*|"
    rb"x-webauth-.*|x-proxy-user.*|x-ms-client-principal.*|x-goog-(?:iap|authenticated)-.*|"
    rb"x-ms-token-.*|x-endpoint-api-userinfo|x-apigateway-api-userinfo|x-jwt-(?:assertion|payload)|"
    rb"x-vouch-.*|(?:x-)?tailscale-user(?:-.*)?|x-client-s-dn|x-peer-certificate|x-clientcert|"
    rb"x-amzn-(?:oidc|mtls)-.*|x-(?:ssl|tls)-.*|ssl-.*|"
    rb"(?:x-)?client-(?:cert|certificate|verify|verified|dn|subject|san)(?:-.*)?"
)
_FROM_TRUSTED: Final = re.compile(b"|".join((_PATHS, _PROXIES, _ADDRESSES, _IDENTITIES)))

# Upstreams read these by their name, and some of them (CGI, WSGI, PHP) take any of these characters
# for "-". So another spelling is dropped: the sidecar has not checked or counted its value.
_CHECKED: Final = NOT_FORWARDED | {
    b"x-api-key",
    b"content-type",
    b"content-encoding",
    b"idempotency-key",
}
_AS_DASH: Final = bytes.maketrans(b"_.!#$%&'*+^`|~", b"-" * 14)

_known: Final[dict[bytes, int]] = {}


def rule_of(lower: bytes) -> int:
    """The rule for a name in lower case: FORWARD, DROP or FROM_TRUSTED.

    FORWARD is also the rule of the names that the parser handles itself.
    """
    rule = _known.get(lower)
    if rule is None:
        rule = _rule(lower)
        if len(lower) <= LONGEST_KNOWN:
            if len(_known) >= MAX_KNOWN:
                _known.clear()
            _known[lower] = rule
    return rule


def _rule(lower: bytes) -> int:
    if lower in NOT_FORWARDED:
        return FORWARD
    plain = lower.translate(_AS_DASH)
    if plain != lower and plain in _CHECKED:
        return DROP
    if _DROPPED.fullmatch(plain):
        return DROP
    if _FROM_TRUSTED.fullmatch(plain):
        return FROM_TRUSTED if plain == lower else DROP
    return FORWARD
