"""Padded batches: every row once, whatever the sizes, and each batch of the same size."""

import numpy as np
import pytest

from hiergal.runtime.batching import join_batches, padded_batches


@pytest.mark.parametrize(("n", "size"), [(1, 1), (1, 4), (5, 3), (6, 3), (7, 100)])
def test_every_row_comes_once(n, size):
    batches = list(padded_batches(n, size))
    assert {len(batch.rows) for batch in batches} == {size}
    assert sum(batch.kept for batch in batches) == n
    assert np.concatenate([np.arange(n)[batch.span] for batch in batches]).tolist() == list(range(n))
    assert join_batches([batch.rows for batch in batches], n).tolist() == list(range(n))


def test_nothing_makes_no_batch():
    assert list(padded_batches(0, 3)) == []


def test_repeats_are_dropped_along_any_axis():
    batches = list(padded_batches(5, 3))
    parts = [{"draws": np.stack([batch.rows, 10 + batch.rows])} for batch in batches]
    joined = join_batches(parts, 5, axis=1)["draws"]
    np.testing.assert_array_equal(joined, [np.arange(5), 10 + np.arange(5)])
