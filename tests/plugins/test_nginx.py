"""plugins/nginx with a real nginx: auth_request without modules, and the Lua module."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.gateways import (
    Behind,
    Place,
    behind,
    check_failure,
    check_streaming,
    check_vectors,
    find,
)
from tests.support.plugin_table import Row, record, version_of
from tests.support.vectors import PLUGINS

NGINX = find("nginx")
MODULES = Path("/usr/lib/nginx/modules")
LUA = MODULES / "ngx_http_lua_module.so"
CJSON = list(Path("/usr/lib").glob("*/lua/5.1/cjson.so"))
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def configured(place: Place, conf: str) -> list[str]:
    """The command of nginx with a configuration of plugins/nginx, at the place's addresses."""
    shutil.copytree(PLUGINS / "nginx", place.directory / "quota")
    text = (PLUGINS / "nginx" / conf).read_text()
    if "load_module" in text:
        text = text.replace("load_module modules/", f"load_module {MODULES}/")
        text = text.replace("/etc/nginx/quota", f"{place.directory}/quota")
    for old, new in {
        "unix:/run/sidecar/decide.sock": f"unix:{place.decide_socket}",
        "127.0.0.1:3000": f"127.0.0.1:{place.api}",
        "listen 8080": f"listen 127.0.0.1:{place.port}",
        "worker_processes auto": "worker_processes 1",
        "http {\n": "http {\n" + "".join(
            f"    {kind}_temp_path {place.directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ) + "    access_log off;\n",
    }.items():  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    user = "user root;" if os.geteuid() == 0 else ""  # as the sidecar, whose socket it uses
    head = f"{user} daemon off; pid {place.directory}/pid; error_log stderr warn;\n"
    (place.directory / "nginx.conf").write_text(head + text)
    assert NGINX is not None
    return [NGINX, "-p", str(place.directory), "-c", "nginx.conf"]


def test_auth_request_without_modules(_valkey: str, tmp_path: Path) -> None:
    assert NGINX is not None
    with behind(tmp_path, _valkey, lambda place: configured(place, "nginx.conf")) as one:
        passed = check_vectors(one, settles=False)
        check_streaming(one)
        check_failure(one, _valkey)
    record(
        Row(
            "nginx, auth_request", version_of(NGINX, "-v"), passed,
            "no: fixed costs and estimates", "closed; open for critical paths",
            "costs in the response, refunds, `concurrency`, costs in a request's body",
        )
    )  # fmt: skip


needs_lua = pytest.mark.skipif(
    not (LUA.exists() and CJSON), reason="nginx's Lua module or lua-cjson is missing"
)


@needs_lua
def test_the_lua_module(_valkey: str, tmp_path: Path) -> None:
    assert NGINX is not None
    with behind(tmp_path, _valkey, lambda place: configured(place, "nginx-lua.conf")) as one:
        passed = check_vectors(one, settles=True)
        check_streaming(one)
        check_reports(one)
        check_failure(one, _valkey)
    record(
        Row(
            "nginx, Lua", version_of(NGINX, "-v"), passed,
            "status, sizes, time, costs in the response", "closed; open for critical paths",
            "deferred jobs",
        )
    )  # fmt: skip


def check_reports(one: Behind) -> None:
    """The event has what happened: status, sizes, an API that cannot be reached."""
    one.api.answers["lost"] = {"status": 404, "body": "nothing"}
    one.send("POST", "/v1/items/9", {"X-Api-Key": "lost"}, b"12345")
    data = one.event_of("lost")
    assert (data["status"], data["bytes_in"], data["bytes_out"]) == (404, 5, 7)
    one.api.pause()
    assert one.send("GET", "/v1/items/1", {"X-Api-Key": "tricky"}).status == 502
    one.api.resume()
    data = one.event_of("tricky")
    assert (data["status"], data["reason"]) == (502, "upstream_broken")
