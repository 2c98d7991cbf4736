"""What accounts and idle sidecars cost Redis is still about what loadtests/FOOTPRINT.md says."""

import redis

from loadtests.capacity import CONNECTIONS, RECORD_BYTES, STATE_BYTES
from loadtests.footprint import idle, memory


def test_memory_of_accounts_is_near_the_recorded_one(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        found = memory(client, valkey_url, 400)
    assert 0.6 < found.record / RECORD_BYTES.value < 1.6
    assert 0.6 < found.state / STATE_BYTES.value < 1.6


def test_a_sidecar_has_the_recorded_connections_and_sends_few_commands_when_idle(
    valkey_url: str,
) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        found = idle(client, valkey_url, 1, 2.0)
    assert found.connections == CONNECTIONS.value
    assert 0 < found.commands_per_s < 40
