"""Calls come out in the order of account and time, each once, however little room there is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.backtest import sort
from sidecar.backtest.sort import in_order
from sidecar.core.events.read import RecordedRequest
from sidecar.errors import SidecarError
from tests.support.replays import START, a_call

ONE = a_call()
CALLS = st.lists(
    st.builds(
        lambda account, number, source: ONE._replace(
            account=account, time_us=START + number // 2, id=f"{account}-{number}", source=source
        ),
        st.sampled_from(["acme", "beta"]),
        st.integers(0, 5),
        st.sampled_from(["/a", "/b"]),
    )
)


@given(calls=CALLS, room=st.integers(1, 7))
def test_the_order_is_that_of_sorting_everything(calls: list[RecordedRequest], room: int) -> None:
    assert list(in_order(iter(calls), room=room)) == sorted(set(calls))


@pytest.mark.parametrize("room", [1, 2, 100])
def test_an_event_is_known_by_source_and_id(room: int) -> None:
    other = ONE._replace(source="/sidecar/other")
    assert len(list(in_order([ONE, other, ONE], room=room))) == 2


def test_what_comes_back_from_the_disk_is_what_was_written() -> None:
    calls = [a_call(number, START - number, usage=(("tokens", number),)) for number in range(5_000)]
    back = list(in_order(iter(calls), room=700))
    assert back == calls[::-1]
    assert all(type(one) is RecordedRequest for one in back)


def test_a_disk_that_is_full_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(sort, "TemporaryFile", lambda **_: full.open("r+b"))
    calls = [a_call(number) for number in range(2_000)]
    with pytest.raises(SidecarError, match="cannot be written: No space left on device"):
        list(in_order(calls, room=1_000))
