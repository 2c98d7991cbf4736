"""Who may see the configuration on the control port, and reload it."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from sidecar import token_file
from sidecar.errors import SettingsError
from sidecar.serve import control_access
from sidecar.serve.control_access import Access, ControlAccess, TokenFile, is_loopback
from sidecar.serve.control_port import ControlPort
from sidecar.serve.readiness import Readiness

TOKEN = "5f0c7b1e-a-token-of-this-test"
OTHER = "another-token-of-this-test"


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def time() -> Time:
    return Time()


def replace(file: Path, text: str) -> None:
    """Replace a file as Kubernetes and editors do: under another name, then renamed."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def decide(access: ControlAccess, authorization: str | None, *, changes: bool = False) -> Access:
    return access.decide(authorization, "127.0.0.1", changes=changes)


def test_each_token_of_the_file_is_accepted_and_no_other_text(file: Path) -> None:
    file.write_text(f"\n  {TOKEN}\r\n\n{OTHER}")
    access = ControlAccess(TokenFile(file))
    for allowed in (f"Bearer {TOKEN}", f"bearer  {OTHER}"):
        assert decide(access, allowed) is Access.ALLOWED
        assert decide(access, allowed, changes=True) is Access.ALLOWED
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é\udcff"):
        assert decide(access, wrong) is Access.WRONG_TOKEN
    for missing in (None, "", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN} {OTHER}"):
        assert decide(access, missing) is Access.NO_TOKEN


def test_every_token_is_compared_in_constant_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f"{TOKEN}\n{OTHER}\n")
    tokens = TokenFile(file)
    compared: list[tuple[int, int]] = []
    real = token_file.compare_digest

    def recorded(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(token_file, "compare_digest", recorded)
    for given in (TOKEN, OTHER, "x", "x" * 5_000):
        tokens.accepts(given)
    assert compared == [(32, 32)] * 8  # both tokens each time, digests of one length


def test_only_hashes_of_the_tokens_stay_in_memory(file: Path) -> None:
    tokens = TokenFile(file)
    assert TOKEN not in repr(vars(tokens))


def test_a_changed_file_is_read_again(file: Path, time: Time) -> None:
    access = ControlAccess(TokenFile(file, now=time))
    replace(file, OTHER)
    assert decide(access, f"Bearer {TOKEN}") is Access.ALLOWED  # not checked again yet
    time.now += control_access.CHECK_EVERY_S
    assert decide(access, f"Bearer {TOKEN}") is Access.WRONG_TOKEN
    assert decide(access, f"Bearer {OTHER}") is Access.ALLOWED


def test_a_removed_file_allows_no_request_until_it_is_back(
    file: Path, time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    access = ControlAccess(TokenFile(file, now=time))
    for broken in ("", "short", "a token with spaces", None):
        if broken is None:
            file.unlink()
        else:
            replace(file, broken)
        time.now += control_access.CHECK_EVERY_S
        assert decide(access, f"Bearer {TOKEN}") is Access.FILE_UNUSABLE
        assert decide(access, "Bearer ") is Access.FILE_UNUSABLE
    replace(file, TOKEN)
    time.now += control_access.CHECK_EVERY_S
    assert decide(access, f"Bearer {TOKEN}") is Access.ALLOWED
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty; write a token"),
        ("short", "a line that is not a token; write at least 16"),
        ("pässwörter-sind-lang-genug", "a line that is not a token"),
        (f"{TOKEN}\n" * 17, "too many tokens; write at most 16"),
        ("x" * 9_000, "too large; write at most 8192"),
    ],
)
def test_an_invalid_file_is_an_error_without_its_content(
    file: Path, text: str, problem: str
) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=problem) as caught:
        TokenFile(file)
    assert str(caught.value).startswith("--control-token-file (SIDECAR_CONTROL_TOKEN_FILE): ")
    assert not text or text not in str(caught.value)


def test_an_error_does_not_repeat_a_token_given_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist; create it") as caught:
        TokenFile(tmp_path / TOKEN)
    assert TOKEN not in str(caught.value)
    with pytest.raises(SettingsError, match="is not a file"):
        TokenFile(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SettingsError, match="is not a file"):
        TokenFile(pipe)


@pytest.mark.parametrize(
    ("peer", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
     ("10.0.0.7", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.7", False), ("", False),
     (None, False), ("localhost", False)],
)  # fmt: skip
def test_without_a_file_only_this_machine_sees_the_configuration(
    peer: str | None, local: bool
) -> None:
    assert is_loopback(peer) is local
    seen = ControlAccess().decide(None, peer, changes=False)
    assert seen is (Access.ALLOWED if local else Access.NOT_CONFIGURED)
    assert ControlAccess().decide(None, peer, changes=True) is Access.NOT_CONFIGURED


def test_refused_requests_are_logged_at_most_every_ten_seconds(
    file: Path, time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    access = ControlAccess(TokenFile(file), now=time)
    for _ in range(50):
        decide(access, f"Bearer {OTHER}")
    time.now += control_access.LOG_EVERY_S
    decide(access, None)
    printed = "".join(capsys.readouterr())
    assert printed.count("control_access_refused") == 2
    assert OTHER not in printed


# over a socket


class Reloads:
    """Counts the reloads that a control port requests."""

    def __init__(self) -> None:
        self.count = 0

    def request(self) -> None:
        self.count += 1


@pytest.fixture
def reloads() -> Reloads:
    return Reloads()


@pytest.fixture
async def guarded(file: Path, reloads: Reloads) -> AsyncIterator[str]:
    """The URL of a control port with a token file."""
    server = ControlPort(
        ("127.0.0.1", 0),
        registry=CollectorRegistry(),
        ready=lambda: Readiness([], []),
        config_status=dict,
        reload=reloads.request,
        access=ControlAccess(TokenFile(file)),
    )
    await server.start()
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()


async def answer(
    url: str, method: str = "GET", fields: list[tuple[str, str]] | None = None
) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=fields) as response,
    ):
        text = await response.text()
        return response.status, response.headers.get("WWW-Authenticate", ""), text


async def test_probes_and_metrics_need_no_token(guarded: str) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await answer(guarded + path))[0] == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/config"), ("POST", "/reload")])
async def test_security_admin_paths_need_the_token(
    guarded: str, reloads: Reloads, method: str, path: str
) -> None:
    right = ("Authorization", f"Bearer {TOKEN}")
    wrong = ("Authorization", f"Bearer {OTHER}")
    for fields in ([], [wrong], [right, wrong], [right, right], [("X-Api-Key", TOKEN)]):
        status, challenge, text = await answer(guarded + path, method, fields)
        assert status == 401
        assert challenge.startswith('Bearer realm="control"')
        problem = json.loads(text)
        assert (problem["status"], problem["how_to_fix"][0]["action"]) == (401, "use_token")
        assert problem["type"] == "https://quota-sidecar.dev/problems/control-access"
        assert TOKEN not in text
    assert reloads.count == 0
    status, _, _ = await answer(guarded + path, method, [right])
    assert status == (202 if path == "/reload" else 200)
    assert reloads.count == (path == "/reload")


async def test_a_reload_over_get_is_refused(guarded: str, reloads: Reloads) -> None:
    fields = [("Authorization", f"Bearer {TOKEN}")]
    assert (await answer(f"{guarded}/reload", "GET", fields))[0] == 405
    assert reloads.count == 0
