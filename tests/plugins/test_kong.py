"""plugins/kong on nginx's Lua module, with a stand-in for Kong's PDK; APISIX's file, its syntax.

Neither a real Kong nor a real APISIX runs here.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.test_nginx import MODULES, NGINX, check_reports, needs_lua
from tests.support.gateways import (
    Place,
    behind,
    check_failure,
    check_streaming,
    check_vectors,
    find,
)
from tests.support.plugin_table import Row, record, version_of
from tests.support.vectors import PLUGINS

LUACHECK = find("luacheck")
KONG = PLUGINS / "kong"
HERE = Path(__file__).parent

# The phases as Kong calls them. Kong, too, lets fields with "_" pass.
CONF = """
USER daemon off; pid PLACE/pid; error_log stderr warn;
load_module MODULES/ndk_http_module.so;
load_module MODULES/ngx_http_lua_module.so;
worker_processes 1;
events { worker_connections 1024; }
http {
    client_body_temp_path PLACE/body; proxy_temp_path PLACE/proxy; fastcgi_temp_path PLACE/f;
    uwsgi_temp_path PLACE/u; scgi_temp_path PLACE/s; access_log off;
    underscores_in_headers on;
    client_max_body_size 0;
    lua_package_path "KONG/?.lua;HERE/?.lua;;";
    init_by_lua_block {
        local pdk = require "kong_pdk"
        kong = pdk.kong()
        handler = require "kong.plugins.quota-sidecar.handler"
        conf = pdk.configured({
            address = "unix:SOCKET", critical = { "^/v1/login$", "^/v1/status$" },
        })
        assert(not pcall(pdk.configured, { timeout_ms = 0 }))
        assert(handler.PRIORITY < 950 and handler.PRIORITY > 910)
    }
    upstream api { server 127.0.0.1:API; keepalive 8; }
    server {
        listen 127.0.0.1:PORT;
        location / {
            access_by_lua_block { handler:access(conf) }
            header_filter_by_lua_block { handler:header_filter(conf) }
            body_filter_by_lua_block { handler:body_filter(conf) }
            log_by_lua_block { handler:log(conf) }
            include TO_API;
        }
    }
}
"""


def command(place: Place) -> list[str]:
    text = CONF
    for name, value in {
        "USER": "user root;" if os.geteuid() == 0 else "", "PLACE": place.directory,
        "MODULES": MODULES, "KONG": KONG, "HERE": HERE, "SOCKET": place.decide_socket,
        "TO_API": PLUGINS / "nginx" / "to_api.conf", "API": place.api, "PORT": place.port,
    }.items():  # fmt: skip
        text = text.replace(name, str(value))
    (place.directory / "nginx.conf").write_text(text)
    return [str(NGINX), "-p", str(place.directory), "-c", "nginx.conf"]


@needs_lua
def test_the_kong_plugin_with_a_stand_in_for_the_pdk(_valkey: str, tmp_path: Path) -> None:
    with behind(tmp_path, _valkey, command) as one:
        passed = check_vectors(one, settles=True)
        check_streaming(one)
        check_reports(one)
        spoofed = {"X-Api-Key": "plenty", "X_Account_Id": "buyer", "X-Plan": "pro"}
        assert one.send("GET", "/v1/items/1", spoofed).status == 200
        got = one.api.received[-1]
        assert (got.all("X-Plan"), got.all("X_Account_Id")) == (["free"], [])
        check_failure(one, _valkey)
    record(
        Row(
            "Kong, plugin (on nginx, stand-in for the PDK)", version_of(str(NGINX), "-v"), passed,
            "status, sizes, time, costs in the response", "closed; open for critical paths",
            "deferred jobs; not run in a real Kong",
        )
    )  # fmt: skip


@pytest.mark.skipif(LUACHECK is None, reason="luacheck (Debian: lua-check) is not installed")
def test_luacheck_finds_nothing() -> None:
    done = subprocess.run(
        [str(LUACHECK), "."], cwd=KONG, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(find("lua5.1") is None, reason="lua5.1 is not installed")
def test_the_rockspec_lists_every_module() -> None:
    (spec,) = KONG.glob("*.rockspec")
    show = (
        f'dofile("{spec}"); for _, file in pairs(build.modules) do print(file) end print(version)'
    )
    done = subprocess.run(
        [str(find("lua5.1")), "-e", show], capture_output=True, text=True, timeout=60, check=True
    )
    *files, version = done.stdout.split()
    assert sorted(files) == sorted(str(file.relative_to(KONG)) for file in KONG.rglob("*.lua"))
    assert spec.stem.endswith(version)


def test_the_apisix_file_has_a_valid_syntax() -> None:
    """Only its syntax, and the names of forward-auth's attributes."""
    text = (PLUGINS / "apisix" / "apisix.yaml").read_text()
    assert text.rstrip().endswith("#END"), "APISIX reads the file when it ends so"
    document: dict[str, Any] = yaml.safe_load(text)
    attributes = {
        "uri", "ssl_verify", "request_method", "request_headers", "upstream_headers",
        "client_headers", "timeout", "keepalive", "keepalive_timeout", "keepalive_pool",
        "allow_degradation", "status_on_error", "extra_headers",
    }  # fmt: skip
    found = [
        plugins["forward-auth"]
        for one in document["plugin_configs"]
        if "forward-auth" in (plugins := one["plugins"])
    ]
    ids = {one["id"] for one in document["plugin_configs"]}
    assert {one["plugin_config_id"] for one in document["routes"]} == ids
    assert len(found) == len(ids)
    for one in document["plugin_configs"]:
        for function in one["plugins"].get("serverless-pre-function", {}).get("functions", ()):
            check_lua(function)
    for plugin in found:
        assert plugin.keys() <= attributes
        assert plugin["uri"].endswith("/v1/forward-auth")
        assert {"X-Account-Id", "X-Plan", "X-Key-Id", "X-Request-Id"} <= set(
            plugin["upstream_headers"]
        )


def check_lua(text: str) -> None:
    """Check the syntax of a Lua function, where Lua is installed."""
    if (luac := find("luac5.1", "luac")) is not None:
        command = [luac, "-p", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
