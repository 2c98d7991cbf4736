"""The password of Redis is changed without a lost request, as docs/how-to/operate.md describes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.processes import SlowApi, StartServing
from tests.support.servers import start_valkey


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A Valkey of this test, whose users a test may change."""
    process, port = start_valkey(tmp_path)
    yield port
    process.kill()
    process.wait()


async def test_a_rolling_restart_with_two_passwords_interrupts_nothing(
    serving: StartServing, slow_api: SlowApi, port: int
) -> None:
    slow_api.release.set()
    upstream = f"http://127.0.0.1:{slow_api.port}"
    with redis.Redis(port=port) as admin:
        admin.execute_command("ACL", "SETUSER", "sidecar", "on", ">first", "~*", "&*", "+@all")
        old = await serving(redis=f"redis://sidecar:first@127.0.0.1:{port}/0", upstream=upstream)
        assert (await old.call("/items"))[0] == 200

        admin.execute_command("ACL", "SETUSER", "sidecar", ">second")
        assert (await old.call("/items"))[0] == 200
        new = await serving(redis=f"redis://sidecar:second@127.0.0.1:{port}/0", upstream=upstream)
        assert [(await here.call("/items"))[0] for here in (old, new)] == [200, 200]
        old.process.terminate()
        assert await old.process.wait() == 0
        admin.execute_command("ACL", "SETUSER", "sidecar", "<first")
        assert (await new.call("/items"))[0] == 200
        assert not new.said("redis_unreachable")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port, username="sidecar", password="first").ping()
    assert sum(one["type"] == "api.request.v1" for one in old.events() + new.events()) == 5
