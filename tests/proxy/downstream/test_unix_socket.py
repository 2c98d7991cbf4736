"""Requests over a unix socket, and the life of its file."""

import asyncio
import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from sidecar.addresses import UnixPath
from sidecar.errors import SettingsError
from sidecar.proxy.downstream.listener import bind_unix
from tests.support.certificate_authority import Authority
from tests.support.stage import StartStage


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path that is short enough for a socket."""
    return tmp_path_factory.mktemp("s") / "http.sock"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def nothing_in(folder: Path) -> bool:
    return list(folder.iterdir()) == []


async def get(path: Path) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://localhost/items", headers={"X-Api-Key": "acme"}) as answer,
    ):
        return answer.status, await answer.text()


async def test_requests_are_served_and_the_file_is_removed_at_the_end(
    stage: StartStage, path: Path
) -> None:
    here = await stage(listen=f"unix:{path}", listen_mode="600")
    assert str(here.app.settings.listen) == f"unix:{path}"
    assert mode_of(path) == 0o600
    assert [await get(path) for _ in range(3)] == [(200, "ok")] * 3
    await here.app.stop()
    assert nothing_in(path.parent)


async def test_tls_works_on_a_unix_socket(stage: StartStage, path: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("leaf")
    await stage(listen=f"unix:{path}", tls_cert=str(pair.cert), tls_key=str(pair.key))
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "--cacert", str(authority.cert), "--unix-socket",
        str(path), "-H", "X-Api-Key: acme", "https://localhost/items",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await curl.communicate()
    assert (curl.returncode, out) == (0, b"ok")


async def test_the_socket_of_a_dead_process_is_replaced(stage: StartStage, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    await stage(listen=f"unix:{path}")
    assert await get(path) == (200, "ok")


async def test_the_socket_of_a_running_process_is_not_replaced(
    stage: StartStage, path: Path
) -> None:
    await stage(listen=f"unix:{path}")
    with pytest.raises(SettingsError, match=f"unix:{path} is in use; .* --listen unix:/PATH"):
        await stage(listen=f"unix:{path}")
    assert await get(path) == (200, "ok")


def test_the_socket_of_a_process_that_does_not_accept_is_not_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.setblocking(False)
        waiting.connect(str(path))
        with pytest.raises(SettingsError, match="is in use"):
            bind_unix(UnixPath(str(path)), 0o660, 1)


def test_a_file_that_is_not_a_socket_is_not_replaced(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(SettingsError, match="is not a socket; remove it"):
        bind_unix(UnixPath(str(path)), 0o660, 1)
    assert path.read_text() == "precious"


def test_a_missing_directory_is_an_error(path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be used: no such file or directory"):
        bind_unix(UnixPath(str(path.parent / "absent" / "x.sock")), 0o660, 1)


async def test_a_socket_that_another_process_replaced_is_not_removed(
    stage: StartStage, path: Path
) -> None:
    here = await stage(listen=f"unix:{path}")
    await asyncio.to_thread(path.unlink)
    await asyncio.to_thread(path.write_text, "of another process")
    await here.app.stop()
    assert await asyncio.to_thread(path.read_text) == "of another process"


async def test_the_limit_per_address_ignores_clients_without_an_address(
    stage: StartStage, path: Path
) -> None:
    here = await stage(listen=f"unix:{path}", max_connections_per_address="1")
    clients = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
    async with asyncio.timeout(10):
        while here.app.data_port.connections < 3:
            await asyncio.sleep(0.01)
    assert await get(path) == (200, "ok")
    for _, writer in clients:
        writer.close()
