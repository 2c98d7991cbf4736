"""Which programs may ask: by the unix socket's mode, by a token, by a client certificate."""

import asyncio
import contextlib
import ssl
import stat
from pathlib import Path

import pytest

from sidecar.decide.callers import Callers
from sidecar.errors import SettingsError
from sidecar.settings import Settings
from tests.decide.conftest import StartDecide
from tests.support.certificate_authority import Authority
from tests.support.stage import StartStage

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
BASE = {"plans": "plans.yaml", "upstream": "http://127.0.0.1:1"}


async def test_the_socket_has_the_mode_of_the_settings(decide: StartDecide) -> None:
    _, gateway = await decide(decide_mode="600")
    assert stat.S_IMODE(Path(gateway.path).stat().st_mode) == 0o600  # noqa: ASYNC240


async def test_without_its_token_a_gateway_learns_nothing(
    decide: StartDecide, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n{OTHER}\n")
    here, gateway = await decide(decide_token_file=str(file))
    question = {"method": "GET", "path": "/items", "headers": {"X-Api-Key": "acme"}}
    for token in ("", TOKEN[:-1], TOKEN.upper()):
        for path in ("/v1/decide", "/v1/settle", "/v1/forward-auth", "/v1/refusal", "/"):
            answer = await gateway.ask(
                path, question, **({"X_Decide_Token": token} if token else {})
            )
            assert (answer.status, answer.document["member"]) == (401, "X-Decide-Token")
            assert TOKEN not in answer.body.decode()
    for token in (TOKEN, OTHER):
        answer = await gateway.ask("/v1/decide", question, X_Decide_Token=token)
        assert answer.document["decision"] == "allow"
    refused = here.app.metrics.registry.get_sample_value("sidecar_decide_callers_refused_total")
    assert refused == 15


async def test_a_reload_replaces_tokens_and_an_invalid_file_keeps_them(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    callers = Callers(file)

    def trusted(token: str) -> bool:
        return callers.trusts([(b"x-decide-token", f"X-Decide-Token: {token}\r\n".encode())])

    assert trusted(TOKEN)
    file.write_text("short")
    callers.reload()
    assert trusted(TOKEN)
    file.write_text(OTHER)
    callers.reload()
    assert trusted(OTHER)
    assert not trusted(TOKEN)
    assert not callers.trusts([(b"x-decide-token", b"X-Decide-Token: " + OTHER.encode())] * 2)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "does not exist"), ("", "is empty"), ("short", "at least 16"), ("é" * 20, "letters")],
)
def test_an_unusable_token_file_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=problem) as raised:
        Callers(file)
    assert "--decide-token-file" in str(raised.value)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"decide": "127.0.0.1:9400"}, "every program that reaches 127.0.0.1:9400 could ask"),
        ({"decide": "0.0.0.0:9400"}, "--decide-token-file or --decide-client-ca"),
        ({"decide": "unix:/run/x.sock", "listen": "unix:/run/x.sock"}, "must differ"),
        ({"decide": "127.0.0.1:9090", "decide_token_file": "t"}, "must differ"),
        ({"decide": "unix:/run/x.sock", "decide_tls_cert": "c"}, "give both"),
        ({"decide": "127.0.0.1:1", "decide_client_ca": "c"}, "give both"),
        ({"decide": "nonsense"}, "is not an address"),
    ],
)
def test_settings_that_would_trust_every_program_are_refused(
    given: dict[str, str], problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        Settings.load(BASE | given)


async def test_mutual_tls_lets_in_only_certificates_of_the_ca(
    stage: StartStage, tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    pair = ours.issue("localhost")
    here = await stage(
        decide="127.0.0.1:0", decide_tls_cert=str(pair.cert), decide_tls_key=str(pair.key),
        decide_client_ca=str(ours.cert),
    )  # fmt: skip
    assert here.app.decide is not None
    port = here.app.decide.port.port

    async def ask(authority: Authority | None) -> bytes:
        context = ssl.create_default_context(cafile=str(ours.cert))
        if authority is not None:
            gateway = authority.issue("gateway")
            context.load_cert_chain(gateway.cert, gateway.key)
        reader, writer = await asyncio.open_connection(
            "localhost", port, ssl=context, family=2, server_hostname="localhost"
        )
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(10):
                return await reader.readuntil(b"\r\n")
        finally:
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.wait_closed()

    assert (await ask(ours)).startswith(b"HTTP/1.1 404")
    for stranger in (None, theirs):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(stranger)
