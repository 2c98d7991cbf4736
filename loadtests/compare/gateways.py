"""The gateways that are compared: how each is configured and started, and what it needs.

All stand in front of the same upstream. Those that limit ask the same Valkey once per request,
under limits that are never reached.
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
class Ground:
    """What every gateway stands on."""

    stack: Stack
    upstream: int  # port
    redis: int  # port


@dataclass(frozen=True)
class Gateway:
    """`missing()` says how to install what is not there, "" if all is; `start` returns the port."""

    id: str
    title: str
    missing: Callable[[], str]
    start: Callable[[Ground], tuple[Running, int]]


def find(program: str) -> str | None:
    """The program beside this Python, else on the PATH, else None."""
    beside = Path(sys.executable).parent / program
    # Where Debian keeps nginx is not on everybody's PATH.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return str(beside) if beside.exists() else shutil.which(program, path=path)


def _program(name: str, remedy: str) -> Callable[[], str]:
    return lambda: "" if find(name) else f"{name} is not installed: {remedy}"


def _command(name: str, *arguments: str) -> list[str]:
    found = find(name)
    if found is None:
        raise DidNotStart(f"{name} is not installed")
    return [found, *arguments]


def lua_missing() -> str:
    """How to install nginx with Lua, "" if it is there."""
    files = (NGINX_MODULES / "ngx_http_lua_module.so", LUA_REDIS)
    there = find("nginx") and all(file.exists() for file in files)
    return "" if there else f"nginx with Lua is not installed: {LUA_PACKAGES}"


def _as_root(text: str) -> str:
    """nginx started by root would drop to a user that may not be able to read our directory."""
    return f"user root;\n{text}" if os.geteuid() == 0 else text


def run_nginx(stack: Stack, name: str, config: str, core: int) -> Running:
    """nginx in the foreground with this configuration."""
    path = stack.directory / f"{name}.conf"
    path.write_text(_as_root(config))
    command = _command("nginx", "-p", str(stack.directory), "-c", str(path), "-g", "daemon off;")
    return stack.start(name, command, core=core)


def start_upstream(stack: Stack) -> int:
    """The API behind all of them; its port. Raises DidNotStart."""
    port = free_port()
    (stack.directory / "1mb").write_bytes(b"x" * 1_000_000)
    config = (HERE / "upstream.conf").read_text().format(directory=stack.directory, port=port)
    running = run_nginx(stack, "upstream", config, OTHERS_CORE)
    wait_for_http(running, f"http://127.0.0.1:{port}/v1/items/1")
    return port


def _gateway_nginx(ground: Ground, name: str, **parts: str) -> tuple[Running, int]:
    port = free_port()
    config = (HERE / "nginx.conf").read_text().format(
        name=name, directory=ground.stack.directory, port=port, upstream=ground.upstream, **parts
    )  # fmt: skip
    return run_nginx(ground.stack, name, config, GATEWAY_CORE), port


def _start_nginx(ground: Ground) -> tuple[Running, int]:
    return _gateway_nginx(ground, "nginx", modules="", http="", access="")


def _start_nginx_lua(ground: Ground) -> tuple[Running, int]:
    script = (HERE / "token_bucket.lua").read_text()
    setup = (
        f"REDIS_PORT = {ground.redis}; SCRIPT = [==[{script}]==]; "
        f'SCRIPT_SHA = "{sha1(script.encode(), usedforsecurity=False).hexdigest()}"'
    )
    return _gateway_nginx(
        ground,
        "nginx-lua",
        modules=LUA_MODULES,
        http=f"init_by_lua_block {{ {setup} }}",
        access=f"access_by_lua_file {HERE}/nginx_access.lua;",
    )


def start_same_work(
    ground: Ground, plans: Path = PLANS, control: int | None = None
) -> tuple[Running, int]:
    """nginx with all of a sidecar's work; /metrics on the control port, the events in `events`."""
    made = ground.stack.directory / "same_work.lua"
    events = ground.stack.directory / "events.jsonl"
    made.write_text(f"return {tables(plans, ground.redis, events)}")
    http = (HERE / "same_work/http.conf").read_text().format(
        here=HERE / "same_work", tables=made, control=control or free_port()
    )  # fmt: skip
    access = (HERE / "same_work/location.conf").read_text()
    return _gateway_nginx(ground, SAME_WORK, modules=LUA_MODULES, http=http, access=access)


def _start_envoy(ground: Ground) -> tuple[Running, int]:
    port = free_port()
    path = ground.stack.directory / "envoy.yaml"
    path.write_text(
        (HERE / "envoy.yaml").read_text().format(port=port, upstream=ground.upstream),
    )
    command = _command(
        "envoy", "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"
    )
    return ground.stack.start("envoy", command, core=GATEWAY_CORE), port


def _start_traefik(ground: Ground) -> tuple[Running, int]:
    port = free_port()
    path = ground.stack.directory / "traefik-routes.yaml"
    path.write_text(
        (HERE / "traefik-routes.yaml")
        .read_text()
        .format(upstream=ground.upstream, redis=ground.redis),
    )
    command = _command(
        "traefik",
        f"--entrypoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={path}",
        "--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false",
    )  # fmt: skip
    return ground.stack.start("traefik", command, core=GATEWAY_CORE), port


def start_sidecar(
    ground: Ground, name: str, tree: Path | None = None, plans: Path = PLANS
) -> tuple[Running, int]:
    """A sidecar of the installed package, or of the one in another directory."""
    port, control = free_port(), free_port()
    command = _command(
        "sidecar", "serve",
        "--plans", str(plans), "--upstream", f"http://127.0.0.1:{ground.upstream}",
        "--listen", f"127.0.0.1:{port}", "--control", f"127.0.0.1:{control}",
        "--redis", f"redis://127.0.0.1:{ground.redis}/0",
        "--spool", str(ground.stack.directory / f"spool-{name}"),
    )  # fmt: skip
    # Nothing ships the events of a benchmark: give a long one room, or it would be refused.
    env = {"SIDECAR_SPOOL_MAX_BYTES": str(16 << 30)}
    if tree is not None:
        env["PYTHONPATH"] = str(tree)
    running = ground.stack.start(name, command, core=GATEWAY_CORE, env=env)
    wait_for_http(running, f"http://127.0.0.1:{control}/readyz")
    return running, port


def _start_sidecar(ground: Ground) -> tuple[Running, int]:
    return start_sidecar(ground, OURS)


def _not_compiled() -> str:
    there = any(COMPILED.glob("*.so"))
    return "" if there else f"{COMPILED} is not installed: make compiled"


def _start_compiled(ground: Ground) -> tuple[Running, int]:
    return start_sidecar(ground, "compiled", COMPILED)


OURS = "sidecar"
SAME_WORK = "nginx-lua-same"
GATEWAYS: Sequence[Gateway] = (
    Gateway(OURS, "Quota Sidecar: identity, 3 limits, metrics, events",
            _program("sidecar", "make test sets it up"), _start_sidecar),
    Gateway("compiled", "Quota Sidecar, compiled (as in the image): the same",
            _not_compiled, _start_compiled),
    Gateway("nginx-lua", "nginx + Lua + Redis: 1 limit", lua_missing, _start_nginx_lua),
    # As it would be written for speed; but its events do not wait for the disk, ours do.
    Gateway(SAME_WORK, "nginx + Lua + Redis: the same work (identity, 3 limits, metrics, events)",
            lua_missing, start_same_work),
    Gateway("traefik", "Traefik RateLimit on Redis: 1 limit",
            _program("traefik", WHEELS), _start_traefik),
    Gateway("envoy", "Envoy, plain proxy",
            _program("envoy", WHEELS), _start_envoy),
    Gateway("nginx", "nginx, plain proxy",
            _program("nginx", "apt-get install nginx"), _start_nginx),
)  # fmt: skip
