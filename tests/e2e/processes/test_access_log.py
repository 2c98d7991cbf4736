"""--access-log: one JSON line for each call, forwarded or refused, and no secret in any."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from e2e_process import Serving, SlowApi, StartServing, until
from e2e_stage import plans_text

SECRETS = ("acme", "hush-key", "hush-bearer", "hush-query", "hush-cookie", "hush-redis")


async def call(here: Serving, method: str, path: str, *fields: str) -> tuple[int, str]:
    """Status and request id of one call on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    lines = (f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *fields, "", "")
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(30):
        answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("X-Request-Id: ")[2].split("\r\n")[0]


def shape(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["status"], line["request_id"], line["method"], line["target"]


@pytest.fixture
def one_call(tmp_path: Path) -> Path:
    """A plan file with which the second call of a month is one too many."""
    plans = tmp_path / "one.yaml"
    plans.write_text(plans_text(quota=1))
    return plans


async def test_each_call_has_its_line_also_a_refused_one_and_no_line_a_secret(
    serving: StartServing, slow_api: SlowApi, one_call: Path
) -> None:
    slow_api.release.set()
    api = f"http://127.0.0.1:{slow_api.port}"
    here = await serving(upstream=api, plans=one_call, access_log=True)
    key = "X-Api-Key: acme"
    told = [
        (*await call(here, "GET", "/items?token=hush-query", key, "Cookie: s=hush-cookie"),
         "GET", "/items"),
        (*await call(here, "POST", "/items", key, "Content-Length: 0"), "POST", "/items"),
        (*await call(here, "GET", "/items", "X-Api-Key: hush-key"), "GET", "/items"),
        (*await call(here, "PATCH", "/a", "Authorization: Bearer hush-bearer"), "PATCH", "/a"),
        (*await call(here, "GET", "/a", key, "Authorization: Bearer hush-bearer"), "GET", "/a"),
        (*await call(here, "GET", "/bulk/7?token=hush-query", key), "GET", "/bulk/7"),
        (*await call(here, "GET", "/items", "X-Api-Key: late"), "GET", "/items"),
        (*await call(here, "GET", "/items"), "GET", "/items"),
    ]  # fmt: skip
    assert [status for status, *_ in told] == [200, 429, 401, 401, 400, 403, 402, 401]
    await until(lambda: len(here.said("access")) >= len(told))
    lines = here.said("access")
    assert sorted(map(shape, lines)) == sorted(told)
    for line in lines:
        assert line["level"] == "info"
        assert line["ms"] >= 0
        assert not [secret for secret in SECRETS if secret in str(line)]


async def test_without_the_option_no_call_is_logged(
    serving: StartServing, slow_api: SlowApi
) -> None:
    slow_api.release.set()
    here = await serving(upstream=f"http://127.0.0.1:{slow_api.port}")
    assert (await call(here, "GET", "/items", "X-Api-Key: acme"))[0] == 200
    here.process.terminate()
    assert await here.process.wait() == 0
    assert here.said("stopped")
    assert here.said("access") == []


async def test_the_password_of_redis_is_in_no_line_and_in_no_answer_of_the_control_port(
    serving: StartServing,
) -> None:
    here = await serving(redis="redis://user:hush-redis@127.0.0.1:1/0", log_level="debug")
    assert (await here.call("/items"))[0] == 503
    answers = [await here.ask(path) for path in ("/readyz", "/config", "/metrics")]
    assert "hush-redis" not in str(answers) + str(here.log)
