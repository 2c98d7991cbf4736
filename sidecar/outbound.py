"""The client for addresses that customers choose, such as webhooks.

An address may be hostile: it may name a service inside the cluster, in many spellings. So a URL is
parsed once, in one strict form, and only the parts are used. A host name is resolved once for each
request, every address must be public, and the connection goes to one of these addresses.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

IPAddress = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

MAX_URL: Final = 2_048
MAX_ADDRESSES: Final = 32  # of one host name
_URL: Final = re.compile(
    r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?([/?][!-\"$-~]*)?",
    re.IGNORECASE,
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # the host of a virtual machine in Azure
    )
)  # fmt: skip
# Of IPv6, only this range is assigned to the public internet; it has exceptions.
_PUBLIC_6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols, Teredo among them: relays decide the destination
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4: relays decide the destination
    )
)  # fmt: skip
# The last 32 bits are an IPv4 address: mapped (RFC 4291) and translated (RFC 6052).
_EMBEDDING: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
_ISATAP: Final = 0x5EFE  # the 32 bits before an IPv4 address, but for one of them (RFC 5214)


class OutboundRefused(Exception):
    """The address must not be requested; `str()` is the cause, without the address."""


class OutboundFailed(Exception):
    """No response came; `str()` is the cause, without the address."""


class OutboundUrl(NamedTuple):
    """The parts of a URL. `address` is set if the host is an IP address."""

    secure: bool
    host: str  # a host name in lower case, or an IP address without brackets
    port: int
    target: str  # path and query
    address: IPAddress | None = None


def parse_url(text: str) -> OutboundUrl:
    """Parse an http or https URL in its strict form.

    Host names are ASCII (an international one in its `xn--` form). Numbers are IP addresses in
    their usual form only: `0x7f000001`, `2130706433`, `127.1` and `0177.0.0.1` are refused. A
    user, a password and a fragment are refused, too. Raises OutboundRefused.
    """
    match = _URL.fullmatch(text) if len(text) <= MAX_URL else None
    if match is None:
        raise OutboundRefused("the URL is not of the form https://HOST[:PORT]/PATH, in ASCII")
    scheme, host, port, target = match.groups()
    secure = scheme.lower() == "https"
    number = int(port) if port else (443 if secure else 80)
    if not 1 <= number <= 65_535:
        raise OutboundRefused("the port is not a number from 1 to 65535")
    name = host.lower().removesuffix(".")
    address = _literal(name)
    if address is None and (len(name) > 253 or not all(map(_LABEL.fullmatch, name.split(".")))):
        raise OutboundRefused("the host is not a host name")
    path = target or "/"
    path = path if path.startswith("/") else f"/{path}"
    return OutboundUrl(secure, str(address) if address else name, number, path, address)


def _literal(host: str) -> IPAddress | None:
    """Return the IP address; None for a host name. Raises OutboundRefused for other numbers."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1])
        if _NUMBER.fullmatch(host.rpartition(".")[2]):
            return IPv4Address(host)
    except ValueError:
        raise OutboundRefused("the host is not an IP address in its usual form") from None
    return None


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to the public internet.

    An IPv6 address that embeds an IPv4 address counts as that IPv4 address.
    """
    if isinstance(address, IPv6Address):
        if not any(address in network for network in _EMBEDDING):
            number = int(address)
            return (
                address in _PUBLIC_6
                and not any(address in network for network in _NOT_PUBLIC_6)
                and (number >> 32) & 0xFDFF_FFFF != _ISATAP
            )
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    return not any(address in network for network in _NOT_PUBLIC_4)


async def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host name, as the system resolves it."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


class OutboundClient:
    """Sends requests to addresses that customers choose.

    `allow_private`: also to private addresses, and over http. `at_once` bounds the connections,
    `timeout_s` one whole request. Redirects are not followed, and no body of a response is read.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        at_once: int = 8,
        timeout_s: float = 10.0,
        resolve: Resolve = resolve_host,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow_private = allow_private
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    def check(self, url: OutboundUrl) -> None:
        """Raises OutboundRefused if the URL itself shows that it must not be requested."""
        if not url.secure and not self._allow_private:
            raise OutboundRefused("the URL is not an https URL")
        if url.address is not None:
            self._check_address(url.address)

    def _check_address(self, address: IPAddress) -> None:
        if not self._allow_private and not is_public(address):
            raise OutboundRefused("the address is not public")

    async def addresses(self, host: str, port: int) -> list[IPAddress]:
        """Resolve a host name. Raises OutboundRefused if any of its addresses is not allowed."""
        found = [ip_address(text.partition("%")[0]) for text in await self._resolve(host, port)]
        if not found:
            raise OSError("the host name has no address")
        for address in found:
            self._check_address(address)
        return list(dict.fromkeys(found))[:MAX_ADDRESSES]

    async def post(self, url: str, body: bytes, fields: Mapping[str, str]) -> int:
        """Send one POST and return the status. Raises OutboundRefused or OutboundFailed."""
        import aiohttp
        from yarl import URL

        parts = parse_url(url)
        self.check(parts)
        if self._session is None:
            self._session = self._open()
        host = f"[{parts.host}]" if ":" in parts.host else parts.host
        scheme = "https" if parts.secure else "http"
        # The parts are of characters that a URL may have: they are not parsed in another way.
        target = URL(f"{scheme}://{host}:{parts.port}{parts.target}", encoded=True)
        try:
            async with self._session.post(
                target, data=body, headers=fields, allow_redirects=False
            ) as response:
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OutboundRefused):
                cause = cause.__cause__
            if cause is not None:
                raise cause from None
            # The text of the error may contain the URL, and the URL a secret.
            raise OutboundFailed(type(error).__name__) from None

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        connector = aiohttp.TCPConnector(
            resolver=_checked_resolver(self),
            use_dns_cache=False,
            limit=self._at_once,
            force_close=True,
            ssl=self._tls or True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "quota-sidecar"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _checked_resolver(client: OutboundClient) -> "aiohttp.abc.AbstractResolver":
    from aiohttp.abc import AbstractResolver

    class CheckedResolver(AbstractResolver):
        """Resolver of allowed addresses. A connection uses the addresses that it has checked."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> "list[ResolveResult]":
            try:
                addresses = await client.addresses(host, port)
            except OutboundRefused as error:
                raise OSError("refused") from error
            results = [_result(host, port, one) for one in addresses]
            return [one for one in results if family in (socket.AF_UNSPEC, one["family"])]

        async def close(self) -> None:
            """Close nothing: a resolution uses no connection of its own."""

    return CheckedResolver()


def _result(host: str, port: int, address: IPAddress) -> "ResolveResult":
    return {
        "hostname": host,
        "host": str(address),
        "port": port,
        "family": socket.AF_INET6 if address.version == 6 else socket.AF_INET,
        "proto": 0,
        "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    }
