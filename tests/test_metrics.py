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
