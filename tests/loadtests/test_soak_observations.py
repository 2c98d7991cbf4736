"""What the soak's clients note: how a call ended, and what they may never see."""

import pytest

from loadtests.soak.client import Answer
from loadtests.soak.observations import End, Observations, Result

OURS = b"application/problem+json"


def an_answer(
    status: int = 200, *, kind: bytes = b"text/plain", whole: bool = True, id_: bytes = b"id-1"
) -> Answer:
    return Answer(status, {b"content-type": kind, b"x-request-id": id_}, b"", whole)


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (an_answer(), End.ANSWERED),
        (an_answer(500), End.ANSWERED),
        (an_answer(whole=False), End.CUT),
        (an_answer(502, kind=OURS), End.FAILED),
        (an_answer(504, kind=OURS), End.FAILED),
        (an_answer(429, kind=OURS), End.REFUSED),
        (an_answer(503, kind=OURS), End.UNSURE),
    ],
)
def test_how_a_call_ended_is_noted(answer: Answer, end: End) -> None:
    observations = Observations()
    assert observations.note(answer, "acme") is end
    assert observations.counts == {end: 1}
    assert observations.seen == {"id-1": Result(end, answer.status, told=False)}
    assert observations.violations == {}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (an_answer(500, kind=OURS), "the sidecar answered 500"),
        (an_answer(502, kind=OURS, whole=False), "an answer of the sidecar's own was cut"),
        (an_answer(id_=b""), "an answer with status 200 has no X-Request-Id"),
    ],
)
def test_an_answer_that_may_not_be_is_a_surprise(answer: Answer, sentence: str) -> None:
    observations = Observations()
    observations.note(answer, "acme")
    assert observations.violations == {sentence: 1}


def test_two_answers_with_one_id_are_a_surprise() -> None:
    observations = Observations()
    for _ in range(2):
        observations.note(an_answer(), "acme")
    assert observations.violations == {"two answers have the same X-Request-Id": 1}


def test_calls_without_an_answer_are_counted_for_their_account() -> None:
    observations = Observations()
    observations.left("acme")
    observations.note(an_answer(503, kind=OURS), "acme")
    assert observations.without_answer == {"acme": 2}
