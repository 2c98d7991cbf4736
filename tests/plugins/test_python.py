"""plugins/asgi in real frameworks on real servers: uvicorn and waitress."""

import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.support.gateways import (
    Behind,
    Place,
    behind,
    check_failure,
    check_streaming,
    check_vectors,
)
from tests.support.plugin_table import Row, record, version_of
from tests.support.vectors import PLUGINS

ROOT = PLUGINS.parent


def served(place: Place, *command: str) -> list[str]:
    """The command of a server, with the addresses of the place."""
    return [
        "env", f"PYTHONPATH={PLUGINS / 'asgi'}:{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        f"SAMPLE_API=http://127.0.0.1:{place.api}", f"SAMPLE_DECIDE=unix:{place.decide_socket}",
        sys.executable, "-m", *command,
    ]  # fmt: skip


def uvicorn(place: Place, app: str) -> list[str]:
    target = f"tests.plugins.apps.{app}:app"
    return served(place, "uvicorn", "--port", str(place.port), "--log-level=warning", target)


def waitress(place: Place, app: str, *options: str) -> list[str]:
    return served(
        place, "waitress", *options, f"--listen=127.0.0.1:{place.port}", f"tests.plugins.apps.{app}"
    )


def check_costs(one: Behind) -> None:
    """The decorator's cost replaces the estimate of the route."""
    assert one.send("POST", "/v1/chat?units=11", {"X-Api-Key": "builder"}).status == 200
    assert one.event_of("builder")["usage"] == {"requests": 1, "tokens": 11}


def check_reports(one: Behind) -> None:
    """The event has what happened: status, sizes, exceptions before and in the response."""
    one.api.answers["lost"] = {"status": 404, "body": "nothing"}
    assert one.send("POST", "/v1/items/9", {"X-Api-Key": "lost"}, b"12345").status == 404
    data = one.event_of("lost")
    assert (data["status"], data["bytes_in"], data["bytes_out"]) == (404, 5, 7)
    assert one.send("GET", "/v1/items/raises", {"X-Api-Key": "tricky"}).status == 500
    data = one.event_of("tricky")
    assert (data["status"], data["billable"]) == (500, False)
    with pytest.raises(http.client.IncompleteRead):
        one.send("GET", "/v1/items/breaks", {"X-Api-Key": "twice"})
    data = one.event_of("twice")
    assert (data["status"], data["reason"], data["bytes_out"]) == (200, "upstream_broken", 5)


def leave(one: Behind, path: str, key: str, *, begun: bool) -> None:
    """Send a request, and close the connection before the response is complete."""
    one.api.released.clear()
    reached = len(one.api.received)
    client = http.client.HTTPConnection("127.0.0.1", one.place.port, timeout=20)
    client.request("GET", path, headers={"X-Api-Key": key})
    deadline = time.monotonic() + 20
    while len(one.api.received) == reached:
        assert time.monotonic() < deadline, "the request did not reach the API"
        time.sleep(0.01)
    if begun:
        assert client.getresponse().read(5) == b"first"
    client.close()
    one.api.released.set()


def event_of_left(one: Behind, account: str) -> dict[str, Any]:
    """The event of an account's request whose client left."""
    deadline = time.monotonic() + 20
    while (data := one.event_of(account))["reason"] != "client_gone":
        assert time.monotonic() < deadline, data
        time.sleep(0.02)
    return data


def check_leaving(one: Behind) -> None:
    """A client that leaves in the stream, and one that leaves before the response."""
    leave(one, "/v1/items/stream", "query", begun=True)
    assert event_of_left(one, "query")["status"] == 200


def test_starlette(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, lambda place: uvicorn(place, "starlette_app")) as one:
        passed = check_vectors(one, settles=True)
        check_streaming(one)
        check_reports(one)
        check_costs(one)
        check_leaving(one)
        leave(one, "/v1/items/held", "posts", begun=False)
        data = event_of_left(one, "posts")
        assert (data["status"], data["bytes_out"]) == (499, 0)
        check_websockets(one)
        check_failure(one, _valkey)
    row("Starlette, FastAPI, Litestar: ASGI middleware", "starlette", passed)


def check_websockets(one: Behind) -> None:
    """A WebSocket is one request; a refused handshake is the whole refusal."""
    url = f"ws://127.0.0.1:{one.place.port}/v1/items/echo"
    with connect(url, additional_headers={"X-Api-Key": "heads"}) as socket:
        assert json.loads(socket.recv()).keys() == {"plan", "remaining"}
        socket.send("hello")
        assert socket.recv() == "hello"
    deadline = time.monotonic() + 20
    while (data := one.event_of("heads"))["status"] != 101:
        assert time.monotonic() < deadline, data
        time.sleep(0.02)
    assert (data["bytes_in"], data["reason"]) == (5, "ok")
    with pytest.raises(Exception, match="401"):
        connect(url, additional_headers={"X-Api-Key": "not-a-key"})


@pytest.mark.parametrize("framework", ["fastapi", "litestar"])
def test_frameworks_with_the_same_middleware(_valkey: str, tmp_path: Path, framework: str) -> None:
    with behind(tmp_path, _valkey, lambda place: uvicorn(place, f"{framework}_app")) as one:
        check_vectors(one, settles=True)
        check_costs(one)


def test_django_by_asgi(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, lambda place: uvicorn(place, "django_app")) as one:
        passed = check_vectors(one, settles=True)
        check_streaming(one)
        check_reports(one)
        check_costs(one)
        check_leaving(one)
        check_failure(one, _valkey)
    row("Django, ASGI middleware", "django", passed)


def test_django_by_wsgi(_valkey: str, tmp_path: Path) -> None:
    def command(place: Place) -> list[str]:
        return waitress(place, "django_app:wsgi", "--call")

    with behind(tmp_path, _valkey, command) as one:
        check_vectors(one, settles=True)
        check_reports(one)
        check_costs(one)


def test_wsgi(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, lambda place: waitress(place, "wsgi_app:app")) as one:
        passed = check_vectors(one, settles=True)
        check_streaming(one)
        check_reports(one)
        check_costs(one)
        check_failure(one, _valkey)
    row("WSGI middleware (Django, Flask)", "waitress", passed)


def row(gateway: str, package: str, passed: int) -> None:
    """Write or check a row of the table. The version is that of `package`."""
    show = f"from importlib.metadata import version; print(version('{package}'))"
    record(
        Row(
            gateway, version_of(sys.executable, "-c", show), passed,
            "status, sizes, time, costs in the response and of the handler",
            "closed; open for critical paths", "deferred jobs",
        )
    )  # fmt: skip
