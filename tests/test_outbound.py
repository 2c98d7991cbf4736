"""The client for addresses that customers choose: forms of URLs, public addresses, connections."""

import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.outbound import (
    OutboundClient,
    OutboundFailed,
    OutboundRefused,
    OutboundUrl,
    is_public,
    parse_url,
)
from tests.support.certificate_authority import Authority
from tests.support.servers import free_port

BODY = b"{}"


class Server:
    """A server that records requests; each gets `status`."""

    def __init__(self) -> None:
        self.got: list[web.Request] = []
        self.port = 0
        self.status = 204

    async def take(self, request: web.Request) -> web.Response:
        self.got.append(request)
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls_of(request, tmp_path)).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


def tls_of(request: pytest.FixtureRequest, tmp_path: Path) -> ssl.SSLContext | None:
    """Return a context with a certificate for localhost, if the test's parameter asks for it."""
    if getattr(request, "param", "") != "tls":
        return None
    pair = Authority(tmp_path).issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    return context


class Names:
    """A resolver with its own answers; `asked` are the host names that it was asked for."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def post(client: OutboundClient, url: str) -> int:
    try:
        return await client.post(url, BODY, {"content-type": "application/json"})
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://Acme.example/hook?a=b", OutboundUrl(True, "acme.example", 443, "/hook?a=b")),
        ("HTTP://acme.example.:8080", OutboundUrl(False, "acme.example", 8080, "/")),
        ("https://xn--bcher-kva.example?x", OutboundUrl(True, "xn--bcher-kva.example", 443, "/?x")),
        ("https://8.8.8.8/", OutboundUrl(True, "8.8.8.8", 443, "/", ip_address("8.8.8.8"))),
        ("https://[2606:4700:0::1111]/",
         OutboundUrl(True, "2606:4700::1111", 443, "/", ip_address("2606:4700::1111"))),
        ("https://acme.example/a@b:c//d", OutboundUrl(True, "acme.example", 443, "/a@b:c//d")),
    ],
)  # fmt: skip
def test_a_url_is_parsed_into_its_parts(text: str, url: OutboundUrl) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["ftp://example.com/", "//example.com/", "https:///x", "https://user@example.com/",
     "https://user:pass@example.com/", "https://example.com\\@10.0.0.1/", "https://exa mple.com/",
     "https://example.com/#f", "https://example.com/\r\nX: y", "https://example.com:0/",
     "https://example.com:65536/", "https://example.com:/", "https://[::1/", "https://::1/",
     "https://[fe80::1%25eth0]/", "https://-a.example/", "https://a..example/",
     "https://" + "a" * 64 + ".example/", "https://e.example/" + "a" * 2_048,
     "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://127.1/",
     "https://0177.0.0.1/", "https://127.0.0.01/", "https://1.2.3.4.5/", "https://256.0.0.1/",
     "https://127.0.0.0x1/", "https://017700000001/", "https://0x/", "https://example.0x7f/",
     "https://１２７.0.0.1/", "https://127。0。0。1/", "https://①②⑦.0.0.1/", "https://b\u00fccher.example/",
     "https://ｌocalhost/", "https://local\u00adhost/", "https://%6cocalhost/", ""],
)  # fmt: skip
def test_other_forms_of_a_url_are_refused(text: str) -> None:
    with pytest.raises(OutboundRefused):
        parse_url(text)


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
     ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
     ("100.64.0.1", False), ("0.0.0.0", False), ("255.255.255.255", False), ("224.0.0.1", False),
     ("192.0.0.192", False), ("198.18.0.1", False), ("192.88.99.1", False), ("240.0.0.1", False),
     ("168.63.129.16", False), ("203.0.113.9", False),
     ("::", False), ("::1", False), ("fe80::1", False), ("fd00:ec2::254", False),
     ("fec0::1", False), ("ff02::1", False), ("5f00::1", False), ("100::1", False),
     ("4000::1", False), ("3fff::1", False), ("2001:db8::1", False),
     ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True),
     ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
     ("64:ff9b:1::808:808", False), ("::127.0.0.1", False), ("::8.8.8.8", False),
     ("::ffff:0:127.0.0.1", False), ("::ffff:0:8.8.8.8", False),
     ("2002:7f00:1::", False), ("2002:808:808::1", False), ("2001::1", False),
     ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False), ("2001:20::1", False),
     ("2606:4700::5efe:7f00:1", False), ("2606:4700::200:5efe:7f00:1", False)],
)  # fmt: skip
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize("found", [["127.0.0.1"], ["8.8.8.8", "::1"], ["fe80::1%eth0"]])
async def test_a_host_name_with_a_private_address_is_refused(
    server: Server, found: list[str]
) -> None:
    client = OutboundClient(resolve=Names(found))
    with pytest.raises(OutboundRefused, match="not public"):
        await post(client, f"https://acme.example:{server.port}/hook")
    assert server.got == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "169.254.169.254"]
)
async def test_a_private_address_is_refused_without_a_connection(server: Server, host: str) -> None:
    names = Names(["8.8.8.8"])
    with pytest.raises(OutboundRefused, match="not public"):
        await post(OutboundClient(resolve=names), f"https://{host}:{server.port}/hook")
    assert (server.got, names.asked) == ([], [])


async def test_plain_http_is_refused_unless_private_addresses_are_allowed(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/hook"
    with pytest.raises(OutboundRefused, match="not an https URL"):
        await post(OutboundClient(), url)
    assert await post(OutboundClient(allow_private=True), url) == 204


async def test_the_connection_goes_to_an_address_that_was_checked(server: Server) -> None:
    """The host name is resolved once per request: a second answer would be another address."""
    names = Names(["127.0.0.1"], ["192.0.2.1"])
    client = OutboundClient(allow_private=True, resolve=names)
    status = await post(client, f"http://acme.example:{server.port}/hook?a=%2F&b=%7e//c")
    assert (status, names.asked) == (204, ["acme.example"])
    [request] = server.got
    assert request.headers["Host"] == f"acme.example:{server.port}"
    assert request.raw_path == "/hook?a=%2F&b=%7e//c"  # as it was written


async def test_each_request_resolves_the_host_name_again(server: Server) -> None:
    names = Names(["127.0.0.1"], ["::1%lo"])
    client = OutboundClient(allow_private=True, resolve=names)
    url = f"http://acme.example:{server.port}/"
    assert await client.post(url, BODY, {}) == 204
    with pytest.raises(OutboundFailed):  # the server is at the first address only
        await post(client, url)
    assert len(names.asked) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(server: Server, status: int) -> None:
    server.status = status
    client = OutboundClient(allow_private=True)
    assert await post(client, f"http://127.0.0.1:{server.port}/hook") == status
    assert [request.path for request in server.got] == ["/hook"]


async def test_a_failure_does_not_repeat_the_url() -> None:
    client = OutboundClient(allow_private=True)
    with pytest.raises(OutboundFailed) as failed:
        await post(client, f"http://127.0.0.1:{free_port()}/hook?secret=hush")
    assert "hush" not in str(failed.value)
    names: Any = Names([])
    with pytest.raises(OutboundFailed):
        await post(OutboundClient(allow_private=True, resolve=names), "http://none.example/")


@pytest.mark.parametrize("server", ["tls"], indirect=True)
async def test_the_certificate_must_have_the_host_name_of_the_url(
    server: Server, tmp_path: Path
) -> None:
    """The connection goes to a checked address, and TLS still verifies the name."""
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    async def send(host: str, tls: ssl.SSLContext | None) -> int:
        client = OutboundClient(allow_private=True, resolve=Names(["127.0.0.1"]), tls=tls)
        return await post(client, f"https://{host}:{server.port}/hook")

    assert await send("localhost", trusted) == 204
    for host, tls in (("acme.example", trusted), ("localhost", None)):
        with pytest.raises(OutboundFailed):
            await send(host, tls)
    assert len(server.got) == 1
