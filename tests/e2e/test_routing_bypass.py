"""All routes of the example plans, with all published disguises of paths.

The sidecar runs between raw sockets and a recorder. A request is refused, or it is counted on the
route that any server would choose, and its target arrives byte for byte.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.loading import load
from sidecar.core.paths import BadTarget
from sidecar.core.routing import RouteTable
from tests.support.http.bypass_tricks import AFTER, BEFORE, SERVERS, WITHIN, disguises
from tests.support.stage import Stage, StartStage, status

EXAMPLES = Path(__file__).parents[2] / "examples"


class Routes:
    """The routes of a plan file, matched segment by segment."""

    def __init__(self, file: dict[str, Any]) -> None:
        self.patterns: list[tuple[str, str, list[str]]] = []
        for route in file["routes"]:
            method, _, pattern = route["match"].rpartition(" ")
            self.patterns.append((route["id"], method, pattern.split("/")[1:]))

    def serving(self, method: str, path: str) -> str:
        """The id of the first route that matches this request."""
        segments = [segment for segment in path.split("/") if segment]
        for route, wanted, pattern in self.patterns:
            if wanted in ("", method) or (wanted, method) == ("GET", "HEAD"):
                deep = pattern[-1] == "**"
                fixed = pattern[:-1] if deep else pattern
                if (
                    len(segments) >= len(fixed)
                    and (deep or len(segments) == len(fixed))
                    and all(
                        a in (b, "*") or a[0] == "{" for a, b in zip(fixed, segments, strict=False)
                    )
                ):
                    return route
        raise AssertionError(f"{path}: the examples have a route for everything")

    def samples(self) -> list[tuple[str, str, bytes]]:
        """(id, method, a path) for each route."""
        return [
            (route, method or "GET", b"/" + "/".join(
                "seven" if part in ("*", "**") or part[0] == "{" else part for part in pattern
            ).encode())
            for route, method, pattern in self.patterns
        ]  # fmt: skip


def without_limits(file: dict[str, Any]) -> str:
    """The file's routes and meters, with one unlimited plan."""
    features = sorted({need for route in file["routes"] for need in route.get("needs", [])})
    key = {"id": "k1", "sha256": sha256(b"acme").hexdigest()}
    plan = {
        "features": features,
        "critical": {"rate": "100000/s", "burst": 1_000_000},
        "limits": [],
    }
    kept = {name: file[name] for name in ("version", "meters", "routes")}
    accounts = [{"id": "acme", "plan": "all", "keys": [key]}]
    return yaml.safe_dump(kept | {"plans": {"all": plan}, "accounts": accounts})


TABLES = [
    (RouteTable(load(path).routes), Routes(yaml.safe_load(path.read_text())))
    for path in sorted(EXAMPLES.glob("*.yaml"))
]
PIECES = sorted(
    {*BEFORE, *AFTER, *WITHIN, b"/v1", b"/v1/status", b"/v1/models", b"/exports", b"chat"}
)


@given(st.sampled_from(TABLES), st.lists(st.sampled_from(PIECES), min_size=1, max_size=6))
def test_any_mix_of_disguises_is_refused_or_matches_one_route_for_any_server(
    tables: tuple[RouteTable, Routes], pieces: list[bytes]
) -> None:
    table, routes = tables
    target = b"/v1" + b"".join(pieces)
    try:
        found = table.find("GET", target)
    except BadTarget:
        return
    assert found is not None
    assert {routes.serving("GET", server(target)) for server in SERVERS} == {found.id}


class Client:
    """A client with one connection, reused while the sidecar keeps it open."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, target: bytes, fields: bytes = b"") -> tuple[int, str]:
        """Send a request. Returns the status and the request id of the response."""
        self.here.upstream.received.clear()
        if self.reader is None or self.writer is None:
            port = self.here.app.data_port.port
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.write(
            b"%b %b HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n%bContent-Length: 0\r\n\r\n"
            % (method.encode(), target, fields)
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        named = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if method != "HEAD":
            await self.reader.readexactly(int(named[b"content-length"]))
        if named.get(b"connection") == b"close":
            self.close()
        return status(head), named[b"x-request-id"].decode()

    def arrived(self) -> bytes:
        """The target of the request at the upstream."""
        return bytes(self.here.upstream.received).split(b" HTTP/1.1\r\n")[0].partition(b" ")[2]

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


@pytest.fixture(params=sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> dict[str, Any]:
    """An example plan file."""
    read: dict[str, Any] = yaml.safe_load(request.param.read_text())
    return read


@pytest.fixture
async def client(
    stage: StartStage, example: dict[str, Any], tmp_path: Path
) -> AsyncIterator[Client]:
    """A client of a sidecar with the example's routes and without limits."""
    plans = tmp_path / "example.yaml"
    plans.write_text(without_limits(example))
    client = Client(await stage(plans=str(plans)))
    yield client
    client.close()


@pytest.fixture
def routes(example: dict[str, Any]) -> Routes:
    return Routes(example)


async def counted(client: Client) -> dict[str, str]:
    """Request id → route, from the usage events."""
    return {event["id"]: event["data"]["route"] for event in await client.here.events()}


def origin_form(target: bytes) -> bytes:
    return re.sub(rb"^https?://[^/?]*", b"", target, flags=re.IGNORECASE) or b"/"


async def test_a_disguised_path_is_refused_or_counted_on_the_route_that_serves_it(
    client: Client, routes: Routes
) -> None:
    samples = routes.samples()
    sent: dict[str, tuple[str, bytes]] = {}
    plain: dict[str, str] = {}
    refused = 0
    for route, method, path in samples:
        others = [other for name, _, other in samples if name != route]
        for target in disguises(path, others):
            code, request_id = await client.send(method, target)
            if code == 200:
                assert client.arrived() == origin_form(target), target
                sent[request_id] = (method, target)
                if target == path:
                    plain[request_id] = route
            else:
                assert code == 400, target
                assert not client.here.upstream.received
                refused += 1
    events = await counted(client)
    assert events.keys() == sent.keys()
    assert {name: events[name] for name in plain} == plain
    assert set(plain.values()) == {route for route, _, _ in samples}
    wrong = [
        (method, target, events[name], server.__name__)
        for name, (method, target) in sent.items()
        for server in SERVERS
        if events[name] != routes.serving(method, server(target))
    ]
    assert wrong == []
    assert refused > len(sent) > 20 * len(samples)


async def test_the_method_that_is_priced_is_the_method_that_is_served(
    client: Client, routes: Routes
) -> None:
    override = (
        b"%b-HTTP-Method-Override: %b\r\n%b-HTTP-Method: %b\r\n%b-Method-Override: %b\r\n"
        b"%b_HTTP_METHOD_OVERRIDE: %b\r\n%b-http_method: %b\r\n"
    )
    expected = {}
    for _, method, path in routes.samples():
        for name in (b"X", b"x"):
            fields = override % ((name, method.encode()) * 5)
            for sent in ("GET", "HEAD", "POST", "PATCH", "OPTIONS"):
                code, request_id = await client.send(sent, path + b"?_method=" + name, fields)
                assert code == 200
                received = bytes(client.here.upstream.received)
                assert received.startswith(b"%b %b?" % (sent.encode(), path))
                assert b"override" not in received.lower()
                assert b"http_method" not in received.lower().replace(b"-", b"_")
                expected[request_id] = routes.serving(sent, path.decode())
        for nonsense, refused in (
            (method.lower(), 501),
            (method.title(), 501),
            ("\t" + method, 400),  # not a token
        ):
            assert (await client.send(nonsense, path))[0] == refused
            assert not client.here.upstream.received
        for other in (method + "X", "X-" + method):
            code, request_id = await client.send(other, path)
            assert code == 200
            assert client.here.upstream.received.startswith(b"%b %b " % (other.encode(), path))
            expected[request_id] = routes.serving(other, path.decode())
    assert await counted(client) == expected


async def test_no_field_of_a_client_changes_the_path_for_the_upstream(
    client: Client, routes: Routes
) -> None:
    names = [
        b"X-Original-URL", b"X-Rewrite-URL", b"X_Original_URL", b"x-rewrite_url",
        b"SCRIPT_NAME", b"script_name", b"PATH_INFO", b"Path_Info",
    ]  # fmt: skip
    for route, method, path in routes.samples():
        fields = b"".join(b"%b: %b\r\n" % (name, path) for name in names)
        code, request_id = await client.send(method, path + b"/x", fields)
        assert code == 200, route
        received = bytes(client.here.upstream.received).lower()
        assert [name for name in names if b"\r\n" + name.lower() + b":" in received] == []
        served = routes.serving(method, path.decode() + "/x")
        assert (await counted(client))[request_id] == served
