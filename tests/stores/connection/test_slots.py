"""Slots, compared with redis-py, and nodes' replies about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from sidecar.addresses import Address
from sidecar.stores import keys
from sidecar.stores.connection.slots import SLOTS, View, read_view, redirected, slot_of

ASKED = Address("10.0.0.1", 7000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("{}"), max_size=30)


@given(TEXTS)
def test_slot_of_agrees_with_redis_py(key: str) -> None:
    assert slot_of(key) == key_slot(key.encode())
    assert 0 <= slot_of(key) < SLOTS


@given(TEXTS.filter(bool))
def test_all_keys_of_an_account_are_in_one_slot(account: str) -> None:
    names = (keys.state, keys.account, keys.account_keys)
    assert len({slot_of(name("qs", account)) for name in names}) == 1


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("MOVED", 3999, Address("127.0.0.1", 6381))),
        ("ASK 0 fe80::1:6381", ("ASK", 0, Address("fe80::1", 6381))),
        ("MOVED 16383 node-1.redis.svc:6379", ("MOVED", 16383, Address("node-1.redis.svc", 6379))),
        ("MOVED 7 :6381", ("MOVED", 7, Address("10.0.0.1", 6381))),  # without a host
        ("MOVED 16384 127.0.0.1:6381", None),
        ("MOVED x 127.0.0.1:6381", None),
        ("MOVED 1", None),
        ("ERR unknown command", None),
    ],
)
def test_a_redirection_is_parsed(text: str, meaning: object) -> None:
    assert redirected(text, ASKED) == meaning


def info(state: str = "ok", epoch: int = 6) -> bytes:
    return f"cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n".encode()


def test_a_view_has_the_masters_of_slots() -> None:
    node = [b"10.0.0.2", 7001, b"id", []]
    slots = [[0, 99, node, [b"10.0.0.3", 7002, b"id"]], [100, 16383, [b"", 7000, b"id"]]]
    expected = ((0, 99, Address("10.0.0.2", 7001)), (100, 16383, ASKED))
    assert read_view(info(), slots, ASKED) == View(True, 6, expected)


def test_a_node_without_an_address_is_left_out() -> None:
    slots = [[0, 99, [b"?", 7001, b"id"]], [100, 16383, [None, 7000, b"id"]]]
    assert read_view(info(), slots, ASKED).ranges == ((100, 16383, ASKED),)


@pytest.mark.parametrize("slots", [[[0]], [[0, SLOTS, [b"a", 1, b"id"]]], [7], None])
def test_an_invalid_slot_map_is_an_error(slots: object) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        read_view(info(), slots, ASKED)  # type: ignore[arg-type]


def test_a_view_of_the_majority_precedes_a_newer_one() -> None:
    views = [View(False, 9, ()), View(True, 3, ()), View(True, 5, ())]
    assert max(views, key=lambda view: view.rank).epoch == 5
