import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.engine.plan import PADDING, make_plan


@settings(deadline=None, derandomize=True, max_examples=50)
@given(n=st.integers(0, 40), batch=st.integers(1, 9), extra=st.integers(0, 5))
def test_every_id_appears_once_and_in_order(n, batch, extra):
    ids = np.arange(100, 100 + n)
    plan = make_plan(ids, batch, capacity=40, width=batch + extra)
    assert plan.ids.shape == (-(-40 // batch), batch + extra)
    assert plan.ids.dtype == np.int32
    assert plan.num_steps == -(-n // batch)
    used = plan.ids[: plan.num_steps]
    np.testing.assert_array_equal(used[used != PADDING], ids)
    assert np.all(plan.ids[plan.num_steps :] == PADDING)
    assert np.all(plan.ids[:, batch:] == PADDING)


def test_more_ids_than_the_capacity_are_refused():
    with pytest.raises(ValueError, match="5 ids do not fit a plan of capacity 4"):
        make_plan(np.arange(5), 2, capacity=4)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(n=st.integers(1, 40), batch=st.integers(1, 9))
def test_even_rows_differ_by_at_most_one(n, batch):
    plan = make_plan(np.arange(n), batch, capacity=40, last_batch="even")
    sizes = np.sum(plan.ids[: plan.num_steps] != PADDING, axis=1)
    assert plan.num_steps == -(-n // batch)
    assert sizes.max() - sizes.min() <= 1
    used = plan.ids[: plan.num_steps]
    np.testing.assert_array_equal(used[used != PADDING], np.arange(n))


def test_dropping_keeps_full_rows_and_never_everything():
    plan = make_plan(np.arange(7), 3, capacity=9, last_batch="drop")
    assert plan.num_steps == 2
    np.testing.assert_array_equal(plan.ids[:2].ravel(), np.arange(6))
    assert make_plan(np.arange(2), 3, capacity=9, last_batch="drop").num_steps == 1


def test_an_unknown_remainder_rule_is_named():
    with pytest.raises(ValueError, match="did you mean 'short'"):
        make_plan(np.arange(2), 3, capacity=9, last_batch="shrt")
