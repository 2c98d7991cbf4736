"""Requests come out by account and time, each once, with any amount of memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.backtest import sort
from sidecar.backtest.sort import in_order
from sidecar.core.events.read import RecordedRequest
from sidecar.errors import SidecarError
from tests.support.replays import START, a_request

ONE = a_request()
REQUESTS = st.lists(
    st.builds(
        lambda account, number, source: ONE._replace(
            account=account, time_us=START + number // 2, id=f"{account}-{number}", source=source
        ),
        st.sampled_from(["acme", "beta"]),
        st.integers(0, 5),
        st.sampled_from(["/a", "/b"]),
    )
)


@given(requests=REQUESTS, in_memory=st.integers(1, 7))
def test_the_order_is_that_of_sorting_everything_in_memory(
    requests: list[RecordedRequest], in_memory: int
) -> None:
    assert list(in_order(iter(requests), in_memory=in_memory)) == sorted(set(requests))


@pytest.mark.parametrize("in_memory", [1, 2, 100])
def test_source_and_id_identify_an_event(in_memory: int) -> None:
    other = ONE._replace(source="/sidecar/other")
    assert len(list(in_order([ONE, other, ONE], in_memory=in_memory))) == 2


def test_requests_survive_temporary_files_unchanged() -> None:
    requests = [
        a_request(number, START - number, usage=(("tokens", number),)) for number in range(5_000)
    ]
    back = list(in_order(iter(requests), in_memory=700))
    assert back == requests[::-1]
    assert all(type(one) is RecordedRequest for one in back)


def test_a_full_disk_is_an_error_message(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(sort, "TemporaryFile", lambda **_: full.open("r+b"))
    requests = [a_request(number) for number in range(2_000)]
    with pytest.raises(SidecarError, match="cannot be written: No space left on device"):
        list(in_order(requests, in_memory=1_000))
