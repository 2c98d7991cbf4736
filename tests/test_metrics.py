"""Histograms count spans in batches."""

import math
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from sidecar.metrics import BUCKETS, Histogram

SPANS = st.floats(0, 1e6) | st.sampled_from(BUCKETS)


@given(st.lists(st.lists(SPANS, max_size=700), max_size=3))
def test_each_span_is_in_the_first_bucket_that_includes_it(
    scrapes: list[list[float]],
) -> None:
    histogram, counts, total = Histogram(), [0] * (len(BUCKETS) + 1), 0.0
    for spans in scrapes:
        for span in spans:
            histogram.observe(span)
            counts[bisect_left(BUCKETS, span)] += 1
            total += span
        rows = histogram.cumulative()
        assert [number for _, number in rows] == [
            sum(counts[: at + 1]) for at in range(len(counts))
        ]
        assert [name for name, _ in rows] == [*map(str, BUCKETS), "+Inf"]
        assert math.isclose(histogram.total, total)


def test_a_bucket_has_its_last_traced_span_as_exemplar_and_an_empty_one_has_none() -> None:
    histogram = Histogram()
    for seconds in (0.0002, 0.00025, 0.3):
        histogram.observe(seconds)
    histogram.attach(0.0002, "first")
    histogram.attach(0.00025, "second")  # the upper bound of the same bucket
    histogram.attach(7.0, "of an empty bucket")
    rows = {row[0]: row[2] for row in histogram.buckets() if len(row) == 3}
    assert {bound: exemplar.labels for bound, exemplar in rows.items()} == {
        "0.00025": {"trace_id": "second"}
    }
    assert rows["0.00025"].value == 0.00025
