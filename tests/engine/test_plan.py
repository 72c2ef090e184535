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
