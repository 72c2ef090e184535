"""What a query of DCFS looks at, on four images whose two heads are written by hand."""

import jax
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.methods import dcfs
from jaxrobust.methods.strategy import NOT_ANNOTATED, AnnotationProblem, QueryContext
from jaxrobust.recipes.dcfs import get_config
from jaxrobust.recipes.parse import parse

# 0: both heads sure of class 0, not quite alike. 1: no evidence, heads alike. 2: less sure,
# and of different classes. 3 has been annotated.
HEADS = np.array(
    [
        [[6.0, -6.0], [5.0, -5.0]],
        [[-6.0, -6.0], [-6.0, -6.0]],
        [[4.0, -6.0], [-6.0, 4.0]],
        [[6.0, -6.0], [6.0, -6.0]],
    ],
    np.float32,
)
TARGET = np.array([[3.0, 0.0], [0.5, 0.0], [1.0, 0.0], [5.0, 0.0]], np.float32)


def asked(annotation, budget=1, precisions=(), **select):
    """Ids that are queried, with the fourth image annotated so."""
    config = get_config("features")
    config.update_from_flattened_dict({f"select.{k}": v for k, v in select.items()})
    problem = AnnotationProblem(num_classes=2, input_shape=(3,), dtype=np.float32, budget=budget)
    annotations = np.array([NOT_ANNOTATED] * 3 + [annotation], np.int32)
    target = TARGET
    if config.select.fine == "badge":
        target = {"logits": TARGET, "features": np.array([[1.0], [2.0], [1.9], [1.0]], np.float32)}
    context = QueryContext(
        predict={"query": HEADS, "target": target}.get,
        observed=lambda name: None,
        trained=frozenset({"target", "query"}),
        in_pool=annotations == NOT_ANNOTATED,
        annotations=annotations,
        budget=budget,
        round=0,
        precisions=precisions,
        rng=np.random.default_rng(0),
        jit=lambda name, function: jax.jit(function),
    )
    return dcfs.build(parse(config), problem).query(context).ids.tolist()


KNOWN, UNKNOWN = 0, 2
COARSE = {"kappa": 1.0, "class_balanced": False}


@pytest.mark.parametrize("coarse", ["weighted_sum", "dist", "sequential"])
def test_before_an_unknown_is_known_the_first_stage_may_sort_by_uncertainty(coarse):
    by_uncertainty = {**COARSE, "stage_order": "uncertainty_first", "coarse": coarse}
    by_discrepancy = {**COARSE, "stage_order": "discrepancy_first", "coarse": coarse}
    assert asked(KNOWN, **by_discrepancy, first_round="uncertainty") == [0]
    assert asked(KNOWN, **by_discrepancy, first_round="same") == [1]  # the heads differ least
    # Once one is known both are by discrepancy.
    assert asked(UNKNOWN, **by_discrepancy) == [1]
    assert asked(UNKNOWN, **by_uncertainty) == [0]


def test_candidates_are_a_share_of_the_pool_or_a_multiple_of_the_query():
    """By distribution uncertainty 0, then 2, then 1; by margin the other way round."""
    assert asked(UNKNOWN, class_balanced=False, pool_share=0.3) == [0]
    assert asked(UNKNOWN, class_balanced=False, pool_share=0.6) == [2]
    assert asked(UNKNOWN, class_balanced=False, pool_share=1.0) == [1]
    assert asked(UNKNOWN, class_balanced=False, kappa=2.0) == [2]


def test_the_share_of_candidates_follows_the_precision():
    """Candidates of three images: at a share of .3 one; after a pure query, at .5, two."""
    assert asked(UNKNOWN, class_balanced=False, precisions=(1.0,)) == [2]
    assert asked(UNKNOWN, class_balanced=False, precisions=(1.0,), adaptive_share=False) == [0]
    assert asked(UNKNOWN, class_balanced=False, precisions=(1.0, 0.0)) == [0]
    assert dcfs.share_after(0.3, ()) == 0.3
    assert dcfs.share_after(0.3, (0.6,) * 5) == pytest.approx(0.3)
    assert dcfs.share_after(0.3, (1.0, 0.8)) == pytest.approx(0.5)
    assert dcfs.share_after(0.3, (0.0,) * 9) == 0.02


def test_fine_by_the_margin_of_the_target():
    """All three are candidates; margins .905, .245, .462."""
    everything = {"kappa": 3.0, "class_balanced": False, "fine": "target_margin"}
    assert asked(UNKNOWN, budget=3, **everything) == [1, 2, 0]
    assert asked(UNKNOWN, **everything) == [1]


def test_fine_by_gradient_embeddings():
    """Shares of the other class .047, .378, .269, times features: first the longest one."""
    everything = {"kappa": 3.0, "class_balanced": False, "fine": "badge"}
    assert asked(UNKNOWN, **everything) == [1]
    assert sorted(asked(UNKNOWN, budget=3, **everything)) == [0, 1, 2]
    # The candidate alone, whatever else there is: heads that differ least, little uncertainty.
    assert asked(UNKNOWN, **COARSE, fine="badge", stage_order="uncertainty_first") == [0]


@pytest.mark.parametrize("fine", ["target_margin", "badge"])
def test_a_score_of_the_target_needs_a_target(fine):
    config = get_config("features")
    config.al.target_model, config.select.fine = "shared", fine
    with pytest.raises(UserError, match=f"fine='{fine}' needs the separate"):
        dcfs.build(parse(config), AnnotationProblem(2, (3,), np.float32, 1))
