"""`OPTIONS *` is about the whole server (RFC 9110, section 9.3.7) and needs its own route."""

from tests.support.stage import StartStage, problem, status

ASK = b"OPTIONS * HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n"


async def test_options_asterisk_is_forwarded_if_a_route_matches_it(stage: StartStage) -> None:
    here = await stage()
    text = here.plans.read_text()
    route = '  - {id: ping, match: "OPTIONS *", cost: {}}\n'
    here.plans.write_text(text.replace("routes:\n", f"routes:\n{route}"))
    assert await here.app.keeper.reload()
    assert status(await here.raw(ASK)) == 200
    assert here.upstream.received.startswith(b"OPTIONS * HTTP/1.1\r\n")
    [event] = await here.events()
    assert event["data"]["route"] == "ping"


async def test_no_other_route_matches_options_asterisk(stage: StartStage) -> None:
    here = await stage()
    answer = await here.raw(ASK)
    assert status(answer) == 404
    assert problem(answer)["type"].endswith("no-route")
    assert here.upstream.received == b""
