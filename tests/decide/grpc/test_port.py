"""The gRPC address: its socket, who may ask there, TLS, and errors at the start."""

import socket
import stat
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.errors import SettingsError
from sidecar.settings import Settings
from tests.decide.grpc.conftest import StartGrpc
from tests.support.certificate_authority import Authority
from tests.support.grpc_gateway import GrpcGateway, metadata_of, question
from tests.support.stage import StartStage

TOKEN = "0123456789abcdef0123456789abcdef"
BASE = {"plans": "plans.yaml", "upstream": "http://127.0.0.1:1"}


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code()


async def test_the_socket_has_its_mode_and_is_removed_at_the_end(
    envoy: StartGrpc, tmp_path: Path
) -> None:
    here, gateway = await envoy(decide_mode="600")
    path = tmp_path / "grpc.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []  # noqa: ASYNC240
    assert (await gateway.check(question())).HasField("ok_response")
    await here.app.stop()
    assert not path.exists()


async def test_a_socket_that_a_dead_process_left_is_replaced(
    envoy: StartGrpc, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "grpc.sock"))
        left.listen()
    _, gateway = await envoy()
    assert (await gateway.check(question())).HasField("ok_response")


async def test_an_address_in_use_is_an_error(stage: StartStage, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    await stage(decide_grpc=f"unix:{path}")
    with pytest.raises(SettingsError, match=f"--decide-grpc: unix:{path} is in use"):
        await stage(decide_grpc=f"unix:{path}")
    path = tmp_path / "file"
    path.write_text("no socket")
    with pytest.raises(SettingsError, match="exists and is not a socket"):
        await stage(decide_grpc=f"unix:{path}")
    with pytest.raises(SettingsError, match="missing/s cannot be used: no such file or directory"):
        await stage(decide_grpc=f"unix:{tmp_path}/missing/s")
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    http = tmp_path / "http.sock"
    with pytest.raises(SettingsError):
        await stage(decide=f"unix:{http}", decide_grpc=f"unix:{tmp_path}/missing/s")
    assert not http.exists()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--decide-grpc: 127.0.0.1:{port} is in use"):
            await stage(decide_grpc=f"127.0.0.1:{port}", decide_token_file=str(tokens))


async def test_without_its_token_a_gateway_learns_nothing(
    stage: StartStage, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    here = await stage(decide_grpc="127.0.0.1:0", decide_token_file=str(tokens))
    assert here.app.decide is not None and here.app.decide.grpc is not None
    address = f"127.0.0.1:{here.app.decide.grpc.port}"
    stranger = GrpcGateway(address, metadata=(("x-decide-token", TOKEN[:-1]),))
    for sent in (stranger.check(question()), stranger.log_end("x"), stranger.check(b"\xff")):
        assert await code_of(sent) is grpc.StatusCode.UNAUTHENTICATED
    await stranger.channel.close()
    known = GrpcGateway(address, metadata=(("x-decide-token", TOKEN),))
    decision = metadata_of(await known.check(question()))["decision"]
    await known.log_end(decision)
    assert here.app.decide.decisions.open == 0
    await known.channel.close()
    assert here.app.decide.refused_callers == 3


async def test_mutual_tls_follows_the_files(stage: StartStage, tmp_path: Path) -> None:
    authority, own = Authority(tmp_path / "ca"), Authority(tmp_path / "clients")
    server, client = authority.issue("sidecar"), own.issue("envoy")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(server.cert.read_bytes())
    key.write_bytes(server.key.read_bytes())
    here = await stage(
        decide_grpc="127.0.0.1:0", decide_tls_cert=str(cert), decide_tls_key=str(key),
        decide_client_ca=str(own.cert),
    )  # fmt: skip
    assert here.app.decide is not None and here.app.decide.grpc is not None
    address = f"localhost:{here.app.decide.grpc.port}"

    async def asks(root: Authority, *, with_certificate: bool) -> bool:
        pair = (client.key.read_bytes(), client.cert.read_bytes()) if with_certificate else ()
        credentials = grpc.ssl_channel_credentials(root.cert.read_bytes(), *pair)
        gateway = GrpcGateway(address, credentials)
        try:
            return bool((await gateway.check(question())).HasField("ok_response"))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        finally:
            await gateway.channel.close()

    assert await asks(authority, with_certificate=True)
    assert not await asks(authority, with_certificate=False)
    other = Authority(tmp_path / "other")
    pair = other.issue("sidecar")
    cert.write_bytes(pair.cert.read_bytes())
    key.write_bytes(pair.key.read_bytes())
    here.app.reload()
    assert await asks(other, with_certificate=True)
    assert not await asks(authority, with_certificate=True)
    expiry = "sidecar_decide_tls_certificate_expiry_timestamp_seconds"
    assert here.app.metrics.registry.get_sample_value(expiry)


async def test_both_forms_share_the_open_decisions(stage: StartStage, tmp_path: Path) -> None:
    one, two = tmp_path / "http.sock", tmp_path / "grpc.sock"
    here = await stage(decide=f"unix:{one}", decide_grpc=f"unix:{two}")
    gateway = GrpcGateway(f"unix:{two}")
    await gateway.check(question())
    await gateway.channel.close()
    assert here.app.metrics.registry.get_sample_value("sidecar_decide_open") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"decide_grpc": "127.0.0.1:9401"}, "--decide-grpc (SIDECAR_DECIDE_GRPC): every program"),
        ({"decide_grpc": "unix:/run/s", "workers": "2"}, "several --workers cannot share a unix"),
        ({"decide_grpc": "unix:/run/s", "decide": "unix:/run/s"}, "--decide-grpc "),
        ({"decide_grpc": "127.0.0.1:9090", "decide_token_file": "t"}, "and --control"),
    ],
)
def test_settings_that_do_not_fit(flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load(BASE | flags)
    assert message in str(error.value)


async def test_without_its_packages_the_error_names_the_extra(
    stage: StartStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sidecar.decide.grpc.port", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(SettingsError, match=r"pip install 'quota-sidecar\[grpc\]'"):
        await stage(decide_grpc=f"unix:{tmp_path}/s")
