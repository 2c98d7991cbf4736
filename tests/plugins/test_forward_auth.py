"""Gateways that ask by /v1/forward-auth, as real programs: Traefik, Caddy, HAProxy."""

from pathlib import Path

import pytest

from tests.support.gateways import (
    TOKEN,
    Place,
    behind,
    check_failure,
    check_streaming,
    check_vectors,
    find,
)
from tests.support.plugin_table import Row, record, version_of
from tests.support.vectors import PLUGINS

TRAEFIK, CADDY, HAPROXY = find("traefik"), find("caddy"), find("haproxy")
NO_SETTLEMENT = "no: fixed costs and estimates"
COSTS = "costs in the response, refunds, `concurrency`"


def changed(file: Path, replaced: dict[str, str]) -> str:
    """A file of plugins with other addresses."""
    text = file.read_text()
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def traefik(place: Place) -> list[str]:
    text = changed(
        PLUGINS / "traefik/dynamic.yaml",
        {
            "http://127.0.0.1:9400/": f"http://127.0.0.1:{place.decide_port}/",
            "127.0.0.1:3000": f"127.0.0.1:{place.api}",
            "0123456789abcdef0123456789abcdef": TOKEN,
        },
    )
    file = place.directory / "dynamic.yaml"
    file.write_text(text)
    return [
        str(TRAEFIK), f"--entrypoints.web.address=127.0.0.1:{place.port}",
        f"--providers.file.filename={file}", "--log.level=ERROR",
        "--global.checknewversion=false", "--global.sendanonymoususage=false",
    ]  # fmt: skip


@pytest.mark.skipif(TRAEFIK is None, reason="traefik is not installed")
def test_traefik(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, traefik, tcp=True) as one:
        passed = check_vectors(one, settles=False, response_fields=False)
        assert not any(got.all("X-Decide-Token") for got in one.api.received)
        check_streaming(one)
        check_failure(one, _valkey, status=500, opens=False)
    record(
        Row(
            "Traefik, ForwardAuth", version_of(str(TRAEFIK), "version"), passed, NO_SETTLEMENT,
            "closed with 500, also for critical paths",
            f"{COSTS}, `RateLimit` fields on allowed responses",
        )
    )  # fmt: skip


def caddy(place: Place) -> list[str]:
    text = changed(
        PLUGINS / "caddy/Caddyfile",
        {
            "unix//run/sidecar/decide.sock": f"unix/{place.decide_socket}",
            "127.0.0.1:3000": f"127.0.0.1:{place.api}",
            ":8080 {": f"http://127.0.0.1:{place.port} {{",
        },
    )
    file = place.directory / "Caddyfile"
    file.write_text(text)
    return [str(CADDY), "run", "--config", str(file), "--adapter", "caddyfile"]


@pytest.mark.skipif(CADDY is None, reason="caddy is not installed")
def test_caddy(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, caddy) as one:
        passed = check_vectors(one, settles=False)
        check_streaming(one)
        check_failure(one, _valkey)
    record(
        Row(
            "Caddy, forward_auth", version_of(str(CADDY), "version"), passed, NO_SETTLEMENT,
            "closed; open for critical paths", f"{COSTS}, costs in a request's body",
        )
    )  # fmt: skip


def haproxy(place: Place) -> list[str]:
    lua = changed(
        PLUGINS / "haproxy/quota_sidecar.lua",
        {"unix@/run/sidecar/decide.sock": f"unix@{place.decide_socket}"},
    )
    (place.directory / "quota_sidecar.lua").write_text(lua)
    text = changed(
        PLUGINS / "haproxy/haproxy.cfg",
        {
            "/etc/haproxy/quota_sidecar.lua": f"{place.directory}/quota_sidecar.lua",
            "127.0.0.1:8080": f"127.0.0.1:{place.port}",
            "127.0.0.1:3000": f"127.0.0.1:{place.api}",
        },
    )
    file = place.directory / "haproxy.cfg"
    file.write_text(text)
    return [str(HAPROXY), "-db", "-f", str(file)]


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_haproxy(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, haproxy) as one:
        passed = check_vectors(one, settles=False)
        check_streaming(one)
        check_failure(one, _valkey)
    record(
        Row(
            "HAProxy, Lua action", version_of(str(HAPROXY), "-v"), passed, NO_SETTLEMENT,
            "closed; open for critical paths", f"{COSTS}, costs in a request's body",
        )
    )  # fmt: skip
