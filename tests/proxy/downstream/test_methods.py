"""Methods that llhttp does not know are forwarded; a refused method comes with Allow."""

import pytest

from sidecar.proxy.downstream.methods import is_forwarded
from tests.support.proxy_stage import Client, SidecarThread, client
from tests.support.stage import StartStage, status

HEAD = b" /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-A\r\n"
METHODS = [
    b"VERSION-CONTROL", b"UPDATE", b"LABEL", b"MKWORKSPACE", b"BASELINE-CONTROL", b"ORDERPATCH",
    b"UPDATEREDIRECTREF", b"BREW", b"GETX", b"LIST", b"MY_OWN.METHOD-2", b"PROXY", b"PRIX", b"X",
]  # fmt: skip


def forwarded(sidecar: SidecarThread, *pieces: bytes) -> bytes:
    """The method that the API got."""
    sidecar.recorder.forget()
    with client(sidecar) as connection:
        connection.send(*pieces)
        answer = connection.response()
        assert answer is not None
        assert answer.status == 200, answer.raw
        again(connection)
    sidecar.settle()
    return sidecar.recorder.requests[0][1].method


def again(connection: Client) -> None:
    """The connection serves another request."""
    connection.send(b"GET" + HEAD + b"\r\n")
    answer = connection.response()
    assert answer is not None
    assert answer.status == 200


@pytest.mark.parametrize("method", METHODS)
def test_method_version_control_and_its_like_are_forwarded(
    sidecar: SidecarThread, method: bytes
) -> None:
    whole = method + HEAD + b"\r\n"
    assert forwarded(sidecar, whole) == method
    for cut in range(1, len(method) + 2):
        assert forwarded(sidecar, whole[:cut], whole[cut:]) == method
    assert forwarded(sidecar, *[whole[at : at + 1] for at in range(len(whole))]) == method
    body = method + HEAD + b"Content-Length: 3\r\n\r\nabc"
    assert forwarded(sidecar, b"\r\n" + body) == method


def test_an_unknown_method_after_another_request_is_forwarded(sidecar: SidecarThread) -> None:
    with client(sidecar) as connection:
        for method in (b"GET", b"LABEL", b"POST", b"LABEL"):
            connection.send(method + HEAD + b"\r\n")
            answer = connection.response()
            assert answer is not None
            assert answer.status == 200


def test_an_unknown_method_within_a_pipeline_gets_501(sidecar: SidecarThread) -> None:
    with client(sidecar) as connection:
        connection.send(b"GET" + HEAD + b"\r\nLABEL" + HEAD + b"\r\n")
        first, second = connection.response(), connection.response()
    assert first is not None
    assert first.status == 200
    assert second is not None
    assert second.status == 501
    assert b"\r\nAllow: GET, " in second.raw


async def test_an_unknown_method_is_on_its_own_route(stage: StartStage) -> None:
    here = await stage()
    text = here.plans.read_text()
    here.plans.write_text(text.replace('"POST /login"', '"LABEL /login"'))
    await here.app.keeper.reload()
    assert status(await here.call("LABEL", "/login")) == 200
    (event,) = [one for one in await here.events() if one["type"].endswith("request.v1")]
    assert event["data"]["route"] == "login"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [(b"CONNECT a:443", 405), (b"TRACE /x", 405), (b"get /x", 501), (b"DESCRIBE /x", 501)],
)
def test_must_allow_connect_and_trace(sidecar: SidecarThread, line: bytes, wanted: int) -> None:
    with client(sidecar) as connection:
        connection.send(line + b" HTTP/1.1\r\nHost: a:443\r\n\r\n")
        answer = connection.response()
    assert answer is not None
    assert answer.status == wanted
    assert b"\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" in answer.raw


@pytest.mark.parametrize("method", [b"PLAY", b"DESCRIBE", b"SET_PARAMETER", b"FLUSH"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_request_of_rtsp_is_not_forwarded(
    sidecar: SidecarThread, method: bytes, version: bytes
) -> None:
    """llhttp parses RTSP too; forwarded, it would become a request of HTTP."""
    with client(sidecar) as connection:
        connection.send(method + b" /x RTSP/" + version + b"\r\nHost: a\r\n\r\n")
        answer = connection.response()
    assert answer is not None
    assert answer.status == 505


async def test_a_405_about_a_job_has_allow(stage: StartStage) -> None:
    here = await stage()
    path = "/-/jobs/01900000-0000-7000-8000-000000000000"
    answer = await here.call("POST", path)
    assert status(answer) == 405
    assert b"\r\nAllow: GET, HEAD, DELETE\r\n" in answer


@pytest.mark.parametrize(
    "pieces",
    [
        [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"GET" + HEAD + b"\r\n"],
        [b"PROXY", b" ", b"TCP6 ::1 ::1 1 2\r\n"],
        [b"P", b"ROXY UNKNOWN\r\n"],
        [b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01"],
    ],
)
def test_proxy_protocol_is_named_and_logged_once(
    sidecar: SidecarThread, pieces: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with client(sidecar) as connection:
            connection.send(*pieces)
            answer = connection.response()
        assert answer is not None
        assert answer.status == 400
        assert b"PROXY protocol" in answer.body
    out, err = capfd.readouterr()
    assert (out + err).count("other_protocol_received") <= 1


V1 = b"PROXY TCP6 ::1 ::1 1 2\r\nGET" + HEAD + b"\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize(
    ("sent", "cuts", "named"),
    [(V1, 7, b"PROXY protocol"), (V2, 12, b"PROXY protocol"), (HELLO, 2, b"TLS handshake")],
    ids=["v1", "v2", "tls"],
)
@pytest.mark.parametrize("after", [b"", b"GET" + HEAD + b"\r\n"], ids=["first", "second"])
def test_proxy_protocol_is_named_however_it_is_cut(
    sidecar: SidecarThread, sent: bytes, cuts: int, named: bytes, after: bytes
) -> None:
    whole = [[sent[:cut], sent[cut:]] for cut in range(1, cuts)]
    for pieces in [*whole, [sent[at : at + 1] for at in range(cuts)]]:
        with client(sidecar) as connection:
            if after:
                connection.send(after)
                assert connection.response() is not None
            connection.send(*pieces)
            answer = connection.response()
        assert answer is not None
        assert answer.status == 400
        assert named in answer.body


@pytest.mark.parametrize("sent", [V2[:5], V2[:11], HELLO[:1]])
def test_bytes_that_only_begin_like_a_protocol_are_not_a_method(
    sidecar: SidecarThread, sent: bytes
) -> None:
    with client(sidecar) as connection:
        connection.send(sent, b"x" + HEAD + b"\r\n")
        answer = connection.response()
    assert answer is not None
    assert answer.status == 400
    assert b"does not begin with a known method" in answer.body


def test_which_methods_are_forwarded() -> None:
    assert all(is_forwarded(method.decode()) for method in [*METHODS, b"GET", b"M-SEARCH"])
    refused = ("CONNECT", "TRACE", "get", "DESCRIBE", "PRI", "", "A B", "É", "A" * 33, "1A")
    assert not any(is_forwarded(method) for method in refused)
