"""The gateways of the comparison: their configuration, start and requirements.

All have the same upstream. Those with limits send one script per request to the same Valkey, with
limits that are never reached.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from loadtests.compare.same_work import tables
from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http

HERE = Path(__file__).parent
COMPILED = HERE.parents[1] / "build/compiled"
PLANS = HERE / "plans.yaml"
API_KEY = "bench-key"
CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE = CORES[0]
OTHERS_CORE = CORES[-1]
NGINX_MODULES = Path("/usr/lib/nginx/modules")
LUA_REDIS = Path("/usr/share/lua/5.1/nginx/redis.lua")
WHEELS = "pip install -r loadtests/compare/requirements.txt"
LUA_MODULES = "\n".join(
    f"load_module {NGINX_MODULES}/{name}.so;" for name in ("ndk_http_module", "ngx_http_lua_module")
)
LUA_PACKAGES = "apt-get install nginx libnginx-mod-http-lua lua-nginx-redis"


@dataclass(frozen=True)
class Backends:
    """The processes and ports that every gateway uses."""

    stack: Stack
    upstream: int  # port
    redis: int  # port


@dataclass(frozen=True)
class Gateway:
    """One gateway.

    `missing` returns how to install what is missing, or "". `start` returns the process and its
    port.
    """

    id: str
    title: str
    missing: Callable[[], str]
    start: Callable[[Backends], tuple[Running, int]]


def find(program: str) -> str | None:
    """The path of a program next to this Python or on PATH, else None."""
    beside = Path(sys.executable).parent / program
    # Debian installs nginx in a directory that is not on every PATH.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return str(beside) if beside.exists() else shutil.which(program, path=path)


def _program(name: str, remedy: str) -> Callable[[], str]:
    return lambda: "" if find(name) else f"{name} is not installed: {remedy}"


def _command(name: str, *arguments: str) -> list[str]:
    path = find(name)
    if path is None:
        raise DidNotStart(f"{name} is not installed")
    return [path, *arguments]


def lua_missing() -> str:
    """How to install nginx with Lua, or "" if it is installed."""
    files = (NGINX_MODULES / "ngx_http_lua_module.so", LUA_REDIS)
    there = find("nginx") and all(file.exists() for file in files)
    return "" if there else f"nginx with Lua is not installed: {LUA_PACKAGES}"


def _as_root(text: str) -> str:
    """The configuration with a user line if root starts nginx.

    nginx would drop to a user that may not be able to read the directory.
    """
    return f"user root;\n{text}" if os.geteuid() == 0 else text


def run_nginx(stack: Stack, name: str, config: str, core: int) -> Running:
    """Start nginx in the foreground with this configuration."""
    path = stack.directory / f"{name}.conf"
    path.write_text(_as_root(config))
    command = _command("nginx", "-p", str(stack.directory), "-c", str(path), "-g", "daemon off;")
    return stack.start(name, command, core=core)


def start_upstream(stack: Stack) -> int:
    """Start the API behind all gateways; its port. Raises DidNotStart."""
    port = free_port()
    (stack.directory / "1mb").write_bytes(b"x" * 1_000_000)
    config = (HERE / "upstream.conf").read_text().format(directory=stack.directory, port=port)
    running = run_nginx(stack, "upstream", config, OTHERS_CORE)
    wait_for_http(running, f"http://127.0.0.1:{port}/v1/items/1")
    return port


def _gateway_nginx(backends: Backends, name: str, **parts: str) -> tuple[Running, int]:
    port = free_port()
    config = (HERE / "nginx.conf").read_text().format(
        name=name, directory=backends.stack.directory, port=port,
        upstream=backends.upstream, **parts,
    )  # fmt: skip
    return run_nginx(backends.stack, name, config, GATEWAY_CORE), port


def _start_nginx(backends: Backends) -> tuple[Running, int]:
    return _gateway_nginx(backends, "nginx", modules="", http="", access="")


def _start_nginx_lua(backends: Backends) -> tuple[Running, int]:
    script = (HERE / "token_bucket.lua").read_text()
    setup = (
        f"REDIS_PORT = {backends.redis}; SCRIPT = [==[{script}]==]; "
        f'SCRIPT_SHA = "{sha1(script.encode(), usedforsecurity=False).hexdigest()}"'
    )
    return _gateway_nginx(
        backends,
        "nginx-lua",
        modules=LUA_MODULES,
        http=f"init_by_lua_block {{ {setup} }}",
        access=f"access_by_lua_file {HERE}/nginx_access.lua;",
    )


def start_same_work(
    backends: Backends, plans: Path = PLANS, control: int | None = None
) -> tuple[Running, int]:
    """Start nginx with all the work of a sidecar.

    The control port serves /metrics. The events go to `events.jsonl` in the stack's directory.
    """
    made = backends.stack.directory / "same_work.lua"
    events = backends.stack.directory / "events.jsonl"
    made.write_text(f"return {tables(plans, backends.redis, events)}")
    http = (HERE / "same_work/http.conf").read_text().format(
        here=HERE / "same_work", tables=made, control=control or free_port()
    )  # fmt: skip
    access = (HERE / "same_work/location.conf").read_text()
    return _gateway_nginx(backends, SAME_WORK, modules=LUA_MODULES, http=http, access=access)


def _start_envoy(backends: Backends) -> tuple[Running, int]:
    port = free_port()
    path = backends.stack.directory / "envoy.yaml"
    path.write_text(
        (HERE / "envoy.yaml").read_text().format(port=port, upstream=backends.upstream),
    )
    command = _command(
        "envoy", "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"
    )
    return backends.stack.start("envoy", command, core=GATEWAY_CORE), port


def _start_traefik(backends: Backends) -> tuple[Running, int]:
    port = free_port()
    path = backends.stack.directory / "traefik-routes.yaml"
    path.write_text(
        (HERE / "traefik-routes.yaml")
        .read_text()
        .format(upstream=backends.upstream, redis=backends.redis),
    )
    command = _command(
        "traefik",
        f"--entrypoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={path}",
        "--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false",
    )  # fmt: skip
    return backends.stack.start("traefik", command, core=GATEWAY_CORE), port


def start_sidecar(
    backends: Backends, name: str, tree: Path | None = None, plans: Path = PLANS
) -> tuple[Running, int]:
    """Start a sidecar of the installed package, or of the package in another directory."""
    port, control = free_port(), free_port()
    command = _command(
        "sidecar", "serve",
        "--plans", str(plans), "--upstream", f"http://127.0.0.1:{backends.upstream}",
        "--listen", f"127.0.0.1:{port}", "--control", f"127.0.0.1:{control}",
        "--redis", f"redis://127.0.0.1:{backends.redis}/0",
        "--spool", str(backends.stack.directory / f"spool-{name}"),
    )  # fmt: skip
    # A benchmark ships no events, so a long one needs a large spool.
    env = {"SIDECAR_SPOOL_MAX_BYTES": str(16 << 30)}
    if tree is not None:
        env["PYTHONPATH"] = str(tree)
    running = backends.stack.start(name, command, core=GATEWAY_CORE, env=env)
    wait_for_http(running, f"http://127.0.0.1:{control}/readyz")
    return running, port


def _start_sidecar(backends: Backends) -> tuple[Running, int]:
    return start_sidecar(backends, SIDECAR)


def _not_compiled() -> str:
    there = any(COMPILED.glob("*.so"))
    return "" if there else f"{COMPILED} is not installed: make compiled"


def _start_compiled(backends: Backends) -> tuple[Running, int]:
    return start_sidecar(backends, "compiled", COMPILED)


SIDECAR = "sidecar"
SAME_WORK = "nginx-lua-same"
GATEWAYS: Sequence[Gateway] = (
    Gateway(SIDECAR, "Quota Sidecar: identity, 3 limits, metrics, events",
            _program("sidecar", "make test sets it up"), _start_sidecar),
    Gateway("compiled", "Quota Sidecar, compiled (as in the image): the same",
            _not_compiled, _start_compiled),
    Gateway("nginx-lua", "nginx + Lua + Redis: 1 limit", lua_missing, _start_nginx_lua),
    # Written for speed; but its events do not wait for the disk, the sidecar's do.
    Gateway(SAME_WORK, "nginx + Lua + Redis: the same work (identity, 3 limits, metrics, events)",
            lua_missing, start_same_work),
    Gateway("traefik", "Traefik RateLimit on Redis: 1 limit",
            _program("traefik", WHEELS), _start_traefik),
    Gateway("envoy", "Envoy, plain proxy",
            _program("envoy", WHEELS), _start_envoy),
    Gateway("nginx", "nginx, plain proxy",
            _program("nginx", "apt-get install nginx"), _start_nginx),
)  # fmt: skip
