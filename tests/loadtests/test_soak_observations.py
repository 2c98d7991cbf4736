"""The observations of the soak's clients: how a request ended, and violations."""

import pytest

from loadtests.soak.client import Answer
from loadtests.soak.observations import End, Observations, Result

PROBLEM = b"application/problem+json"


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
        (an_answer(502, kind=PROBLEM), End.FAILED),
        (an_answer(504, kind=PROBLEM), End.FAILED),
        (an_answer(429, kind=PROBLEM), End.REFUSED),
        (an_answer(503, kind=PROBLEM), End.UNCERTAIN),
    ],
)
def test_the_end_of_a_request_is_recorded(answer: Answer, end: End) -> None:
    observations = Observations()
    assert observations.record(answer, "acme") is end
    assert observations.counts == {end: 1}
    assert observations.results == {"id-1": Result(end, answer.status, has_limits=False)}
    assert observations.violations == {}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (an_answer(500, kind=PROBLEM), "the sidecar answered 500"),
        (an_answer(502, kind=PROBLEM, whole=False), "an answer of the sidecar was incomplete"),
        (an_answer(id_=b""), "an answer with status 200 has no X-Request-Id"),
    ],
)
def test_a_forbidden_answer_is_a_violation(answer: Answer, sentence: str) -> None:
    observations = Observations()
    observations.record(answer, "acme")
    assert observations.violations == {sentence: 1}


def test_two_answers_with_one_id_are_a_violation() -> None:
    observations = Observations()
    for _ in range(2):
        observations.record(an_answer(), "acme")
    assert observations.violations == {"two answers have the same X-Request-Id": 1}


def test_requests_without_an_answer_are_counted_for_their_account() -> None:
    observations = Observations()
    observations.record_disconnect("acme")
    observations.record(an_answer(503, kind=PROBLEM), "acme")
    assert observations.without_answer == {"acme": 2}
