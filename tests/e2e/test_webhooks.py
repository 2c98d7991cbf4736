"""Webhooks of ended jobs: signed, retried, and never sent to private addresses."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import redis
from aiohttp import web

from sidecar.core.jobs.webhook_signing import account_secret, parse_secret
from sidecar.core.model import Account, Pack
from sidecar.stores.admin import Admin
from tests.support.jobs_plan import ROOM, a_stage, ask
from tests.support.stage import StartStage

MASTER = "whsec_" + base64.b64encode(b"m" * 32).decode()


class Customer:
    """A customer's server that records webhooks; `answers` are its next statuses."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = [200]
        self.came = asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append(({k.lower(): v for k, v in request.headers.items()}, await request.read()))
        self.came.set()
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = {"Location": f"{self.url}/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)

    async def next(self) -> tuple[dict[str, str], Any]:
        """Return the fields and the document of the next webhook."""
        async with asyncio.timeout(ROOM):
            await self.came.wait()
        self.came.clear()
        fields, body = self.got[-1]
        return fields, orjson.loads(body)


@pytest.fixture
async def customer() -> AsyncIterator[Customer]:
    customer = Customer()
    app = web.Application()
    app.router.add_post("/{tail:.*}", customer.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    customer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield customer
    await runner.cleanup()


def buy(valkey_url: str) -> None:
    with Admin(valkey_url, "qs") as admin:
        pack = Pack("boost", "monthly", "requests", 9, "month")
        admin.grant(Account("acme", "free"), pack, "g1")


def verify(secret: str, fields: dict[str, str], body: bytes) -> bool:
    """Whether the signature is right, computed from the specification."""
    content = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return fields["webhook-signature"] == f"v1,{expected}"


async def test_an_ended_job_sends_a_signed_webhook(
    stage: StartStage, customer: Customer, valkey_url: str
) -> None:
    here = await a_stage(
        stage, webhook=customer.url + "/hook", webhook_secret=MASTER, webhook_private=True
    )
    job = (await ask(here, "POST", "/exports/1")).json
    buy(valkey_url)
    fields, document = await customer.next()
    assert document["type"] == "job.done"
    assert (document["data"]["id"], document["data"]["state"]) == (job["id"], "done")
    assert document["data"]["href"] == job["href"]
    assert "result" not in document["data"]
    assert fields["webhook-id"] == f"{job['id']}.ended"
    assert abs(int(fields["webhook-timestamp"]) - time.time()) < 3_600
    secret = account_secret(parse_secret(MASTER), "acme")
    assert verify(secret, fields, customer.got[0][1])
    assert not verify(account_secret(parse_secret(MASTER), "other"), fields, customer.got[0][1])


async def test_a_cancelled_job_sends_a_webhook_which_is_retried(
    stage: StartStage, customer: Customer, valkey_url: str
) -> None:
    customer.answers = [500, 302, 204]
    here = await a_stage(stage, webhook=customer.url, webhook_secret=MASTER, webhook_private=True)
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    await ask(here, "DELETE", href)
    first, document = await customer.next()
    assert document["type"] == "job.cancelled"
    jobs = here.app.jobs
    assert jobs is not None
    assert jobs.webhook_sender is not None
    for tried in (1, 2):
        async with asyncio.timeout(ROOM):
            while jobs.webhooks["failed"] < tried:
                await asyncio.sleep(0.01)
        customer.came.clear()
        # Make it due now instead of later.
        with redis.Redis.from_url(valkey_url) as client:
            [webhooks] = client.keys("qs:{jobs}:*:webhooks")
            client.zadd(webhooks, dict.fromkeys(client.zrange(webhooks, 0, -1), 0))
        second, again = await customer.next()
    assert (again, second["webhook-id"]) == (document, first["webhook-id"])
    assert "elsewhere" not in str(customer.got)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1", "https://127.0.0.1", "https://localhost", "https://[::ffff:0:127.0.0.1]",
     "https://[64:ff9b::127.0.0.1]", "https://[::127.0.0.1]"],
)  # fmt: skip
async def test_private_addresses_get_no_webhook(
    stage: StartStage, customer: Customer, url: str
) -> None:
    port = customer.url.rpartition(":")[2]
    here = await a_stage(stage, webhook=f"{url}:{port}/hook", webhook_secret=MASTER)
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    await ask(here, "DELETE", href)
    jobs = here.app.jobs
    assert jobs is not None
    async with asyncio.timeout(ROOM):
        while jobs.webhooks["failed"] < 1:
            await asyncio.sleep(0.01)
    assert customer.got == []


@pytest.mark.parametrize(
    "form", ["2130706433", "0x7f000001", "127.1", "１２７．０．０．１", "u@127.0.0.1"]
)
async def test_an_address_that_redis_has_in_another_form_gets_no_webhook(
    stage: StartStage, customer: Customer, valkey_url: str, form: str
) -> None:
    """Another program has written the record: no command and no plan file accepts these."""
    port = customer.url.rpartition(":")[2]
    here = await a_stage(stage, webhook_secret=MASTER, webhook_private=True, used_up=False)
    with Admin(valkey_url, "qs") as admin:
        _, secret = admin.create_key("bob", random_bytes=lambda size: bytes(range(size)))
        admin.set_account("bob", plan="free", webhook=f"http://{form}:{port}/hook")
    assert (await ask(here, "GET", "/first", key=secret)).status == 200
    href = (await ask(here, "POST", "/exports/1", key=secret)).json["href"]
    await ask(here, "DELETE", href, key=secret)
    jobs = here.app.jobs
    assert jobs is not None
    async with asyncio.timeout(ROOM):
        while jobs.webhooks["failed"] < 1:
            await asyncio.sleep(0.01)
    assert customer.got == []
