import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import arrays_of, tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    align_gradients,
    binary_kl_loss,
    binary_kl_norm_loss,
    etf_deviation,
    gradient_conflict_report,
    gradient_cosine,
    logit_conflict,
    soft_target_kl,
)

LOSSES = {"kd": soft_target_kl, "bkl": binary_kl_loss, "bkln": binary_kl_norm_loss}
LOSS_CASES = [
    *("normal0", "normal1", "normal2", "normal3", "large", "equal", "rowshift", "ties"),
    *("permuted_rows", "clamped_f64", "clamped_teacher_f64"),
]
GA_CASES = [
    *("opposite", "conflict", "aligned", "near_orthogonal", "zero_cls", "zero_kd"),
    *("dual_head_conflict", "dual_head_aligned"),
]
CONFLICT_CASES = ["random", "overconfident", "underconfident", "etf", "single_sample"]
STEP_CASES = ["conflict", "aligned", "weighted"]

by_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
by_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])
property_test = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)

align = jax.jit(align_gradients, static_argnames="scope")
cosine = jax.jit(gradient_cosine)
deviation = jax.jit(etf_deviation)


def random_pair(seed, shape=(6, 5), scale=3.0):
    rng = np.random.default_rng(seed)
    return [scale * rng.normal(size=shape).astype(np.float32) for _ in range(2)]


@functools.partial(jax.jit, static_argnames=("temperatures", "eps"))
def batch_means(student, teacher, *, temperatures=(2.0,), eps=None):
    """Value and student gradient of the batch mean, by name of the loss and temperature."""

    def mean(student, loss, options):
        return loss(student, teacher, **options).mean()

    results = {}
    for name, loss in LOSSES.items():
        for temperature in temperatures:
            options = {"temperature": temperature} | ({} if name == "kd" else {"eps": eps})
            results[name, temperature] = jax.value_and_grad(mean)(student, loss, options)
    return results


def test_golden_cases_are_all_tested(load_golden):
    golden = load_golden("dhkd")
    for topic, cases in [
        ("loss", LOSS_CASES),
        ("ga_flat", GA_CASES),
        ("conflict", CONFLICT_CASES),
        ("train_step", STEP_CASES),
    ]:
        assert {name.split("/")[0] for name in golden.names(topic)} == set(cases)


class TestLosses:
    def test_hand_computed(self):
        student, teacher = np.float32([[0, 0], [2, 2]]), np.float32([[0, 4], [2, 2]])
        q = 1 / (1 + math.exp(-2))
        kl = math.log(2) + q * math.log(q) + (1 - q) * math.log(1 - q)
        for loss, temperature, expected in [
            (soft_target_kl, 2.0, 4 * kl),
            (binary_kl_loss, 2.0, 4 * kl),
            (binary_kl_norm_loss, 2.0, 4 * math.log(math.cosh(1))),
        ]:
            value = jax.jit(loss, static_argnames="temperature")(
                student, teacher, temperature=temperature
            )
            np.testing.assert_allclose(value, [expected, 0], rtol=1e-6)

    @by_dtype
    @pytest.mark.parametrize("case", LOSS_CASES)
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("dhkd"), "loss", case)
        batch = len(arrays["student"])
        # Rows of zeros add nothing, and one shape for every batch size saves compiling.
        student, teacher = (
            np.pad(arrays[name].astype(dtype), ((0, 64 - batch), (0, 0)))
            for name in ("student", "teacher")
        )
        is_clamped = case.startswith("clamped")
        results = batch_means(
            student,
            teacher,
            temperatures=(1.0,) if is_clamped else (1.0, 2.0, 4.0),
            eps=1e-8 if is_clamped else None,
        )
        for i, temperature in enumerate(arrays["temperature"].tolist()):
            for name in LOSSES:
                value, grad = results[name, temperature]
                assert value.dtype == grad.dtype == dtype
                value, grad = value * (64 / batch), grad[:batch] * (64 / batch)
                np.testing.assert_allclose(value, arrays[f"{name}_loss"][i], **tolerances(dtype))
                np.testing.assert_allclose(grad, arrays[f"{name}_grad"][i], **tolerances(dtype))

    def test_float32_where_the_reference_breaks(self, load_golden):
        golden = load_golden("dhkd")
        student, teacher = (golden["f32", name] for name in ("student", "teacher"))
        temperature = float(golden["f32", "temperature"])
        assert not np.isfinite(golden["f32", "bkln_loss_authors"]).all()
        assert not teacher.any()
        half = np.abs(student.astype(np.float64)) / (2 * temperature)
        exact = temperature**2 * (half + np.log1p(np.exp(-2 * half)) - math.log(2))
        slope = temperature / 2 * np.tanh(student.astype(np.float64) / (2 * temperature))
        elementwise = {
            name: jax.jit(
                jax.vmap(jax.value_and_grad(self.one_entry), (0, 0, None)), static_argnums=2
            )
            for name in ("bkl", "bkln")
        }
        for name, atol in [("bkln", 1e-12), ("bkl", 1e-6)]:
            value, grad = elementwise[name](student, teacher, LOSSES[name])
            np.testing.assert_allclose(value, exact, rtol=2e-6, atol=atol)
            np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=atol)

    @staticmethod
    def one_entry(student, teacher, loss):
        return loss(student[None], teacher[None])

    def test_reference_clamp_removes_the_gradient(self):
        results = batch_means(np.float32([[40, -40, 30]]), np.zeros((1, 3), np.float32), eps=1e-8)
        for name in ("bkl", "bkln"):
            grad = results[name, 2.0][1]
            np.testing.assert_array_equal(grad[0, :2], 0.0)
            assert grad[0, 2] > 0.9

    @by_loss
    def test_check_grads(self, x64, loss):
        student, teacher = (x.astype(np.float64) for x in random_pair(1, (2, 3)))
        check_grads(jax.jit(lambda s: loss(s, teacher)), (student,), order=1, modes=["rev"])

    def test_extreme_logits(self):
        values = np.float32([-1e4, -30, 0, 30, 1e4])
        student, teacher = (x.reshape(1, -1) for x in np.meshgrid(values, values, indexing="ij"))
        for (name, _), (value, grad) in batch_means(student, teacher).items():
            assert np.isfinite(value)
            assert np.isfinite(grad).all()
            if name == "bkln":
                np.testing.assert_array_equal(np.sign(grad), np.sign(student - teacher))

    @by_loss
    def test_teacher_receives_no_gradient(self, loss):
        student, teacher = random_pair(2)
        grad = jax.jit(jax.grad(lambda t: loss(student, t).sum()))(teacher)
        np.testing.assert_array_equal(grad, 0.0)

    def test_equal_logits(self):
        student, _ = random_pair(3)
        for (name, _), (value, grad) in batch_means(student, student).items():
            atol = 0 if name == "bkln" else 1e-7
            np.testing.assert_allclose(value, 0.0, atol=atol)
            np.testing.assert_allclose(grad, 0.0, atol=atol)

    def test_curvature_at_equal_logits(self):
        second = jax.jit(jax.grad(jax.grad(self.one_entry)), static_argnums=2)
        for loss in (binary_kl_loss, binary_kl_norm_loss):
            curvature = second(jnp.zeros(()), jnp.zeros(()), loss)
            np.testing.assert_allclose(curvature, 1 / 4, rtol=1e-6)

    def test_class_without_teacher_probability(self):
        student, teacher = np.float32([[1, 1, -np.inf]]), np.float32([[0, 0, -np.inf]])
        np.testing.assert_allclose(jax.jit(soft_target_kl)(student, teacher), 0.0, atol=1e-6)

    @pytest.mark.parametrize(
        ("student", "teacher", "options", "message"),
        [
            ((2, 3), (2, 4), {}, r"same shape, got \(2, 3\) and \(2, 4\)"),
            ((2, 3), (3,), {}, "same shape"),
            ((), (), {}, "at least 1 axis"),
            ((2, 3), (2, 3), {"temperature": 0.0}, r"temperature must be positive, got 0\.0"),
        ],
    )
    @by_loss
    def test_errors(self, loss, student, teacher, options, message):
        with pytest.raises(ValueError, match=message):
            loss(np.zeros(student, np.float32), np.zeros(teacher, np.float32), **options)

    @pytest.mark.parametrize("loss", [binary_kl_loss, binary_kl_norm_loss])
    @pytest.mark.parametrize("eps", [0.0, 0.5])
    def test_eps_out_of_range(self, loss, eps):
        with pytest.raises(ValueError, match=r"eps must be between 0 and 0\.5"):
            loss(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), eps=eps)


class TestLossProperties:
    @given(seeds)
    @property_test
    def test_gradients_are_their_closed_forms(self, seed):
        student, teacher = random_pair(seed)
        s, t = (x.astype(np.float64) for x in (student, teacher))
        temperature = 2.0
        scale = temperature / len(s)

        def softmax(x):
            e = np.exp(x - x.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)

        def sigmoid(x):
            return 1 / (1 + np.exp(-x))

        results = batch_means(student, teacher)
        expected = {
            "kd": scale * (softmax(s / temperature) - softmax(t / temperature)),
            "bkl": scale * (sigmoid(s / temperature) - sigmoid(t / temperature)),
            "bkln": scale / 2 * np.tanh((s - t) / (2 * temperature)),
        }
        for name, grad in expected.items():
            np.testing.assert_allclose(results[name, 2.0][1], grad, rtol=1e-4, atol=1e-6)
        is_clear = np.abs(s - t) > 1e-2
        for name in ("bkl", "bkln"):
            grad = np.asarray(results[name, 2.0][1])
            np.testing.assert_array_equal(np.sign(grad)[is_clear], np.sign(s - t)[is_clear])
        assert np.abs(results["bkln", 2.0][1]).max() <= scale / 2 * (1 + 1e-6)

    @given(seeds)
    @property_test
    def test_norm_is_binary_kl_with_the_teacher_at_zero(self, seed):
        student, teacher = random_pair(seed)
        norm, norm_grad = batch_means(student, teacher)["bkln", 2.0]
        plain, plain_grad = batch_means(student - teacher, np.zeros_like(teacher))["bkl", 2.0]
        swapped, _ = batch_means(teacher, student)["bkln", 2.0]
        half = (student - teacher).astype(np.float64) / 4
        np.testing.assert_allclose(norm, 4 * np.log(np.cosh(half)).sum(-1).mean(), rtol=1e-5)
        np.testing.assert_allclose(norm, plain, rtol=1e-5)
        np.testing.assert_allclose(norm_grad, plain_grad, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(norm, swapped, rtol=1e-6)

    @given(seeds, st.sampled_from([-3.0, -1.0, 1.0, 3.0]))
    @property_test
    def test_shift_of_all_logits(self, seed, shift):
        student, teacher = random_pair(seed)
        shift = np.float32(shift)
        plain = batch_means(student, teacher)
        one = batch_means(student + shift, teacher)
        both = batch_means(student + shift, teacher + shift)
        for changed, name in [(one, "kd"), (both, "kd"), (both, "bkln")]:
            np.testing.assert_allclose(changed[name, 2.0][0], plain[name, 2.0][0], rtol=1e-4)
        for changed, name in [(one, "bkl"), (one, "bkln"), (both, "bkl")]:
            assert abs(changed[name, 2.0][0] - plain[name, 2.0][0]) > 1e-4

    def test_high_temperature_limits(self, x64):
        student, teacher = (x.astype(np.float64) for x in random_pair(5))
        results = batch_means(student, teacher, temperatures=(1e4,))
        difference = student - teacher
        centred = difference - difference.mean(-1, keepdims=True)
        expected = {
            "kd": np.sum(centred**2, axis=-1).mean() / (2 * difference.shape[-1]),
            "bkl": np.sum(difference**2, axis=-1).mean() / 8,
            "bkln": np.sum(difference**2, axis=-1).mean() / 8,
        }
        for name, limit in expected.items():
            np.testing.assert_allclose(results[name, 1e4][0], limit, rtol=1e-3)

    def test_large_difference_limit(self):
        student = 100 * np.sign(random_pair(6)[0])
        value, _ = batch_means(student, np.zeros_like(student))["bkln", 2.0]
        linear = np.abs(student) - 4 * math.log(2)
        np.testing.assert_allclose(value, linear.sum(-1).mean(), rtol=1e-6)

    def test_duplicated_batch_and_appended_class(self):
        student, teacher = random_pair(6)
        plain = batch_means(student, teacher)
        twice = batch_means(np.tile(student, (2, 1)), np.tile(teacher, (2, 1)))
        wider = batch_means(*(np.pad(x, ((0, 0), (0, 1))) for x in (student, teacher)))
        for key, (value, _) in plain.items():
            np.testing.assert_allclose(twice[key][0], value, rtol=1e-6)
            if key[0] == "kd":
                assert abs(wider[key][0] - value) > 1e-3
            else:
                np.testing.assert_allclose(wider[key][0], value, rtol=1e-6)


class TestAlignGradients:
    def test_hand_computed(self):
        cls, kd = np.float32([2, 0]), np.float32([-1, 3])
        np.testing.assert_allclose(align(cls, kd), [2.0, 3.0])
        np.testing.assert_allclose(align(cls, -kd), [3.0, -3.0])
        np.testing.assert_allclose(align_gradients(cls, kd), [2.0, 3.0])

    @by_dtype
    @pytest.mark.parametrize("case", GA_CASES)
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("dhkd"), "ga_flat", case)
        merged = align(arrays["g_cls"].astype(dtype), arrays["g_kd"].astype(dtype))
        assert merged.dtype == dtype
        np.testing.assert_allclose(merged, arrays["merged"], **tolerances(dtype))

    @by_dtype
    @pytest.mark.parametrize("case", STEP_CASES)
    def test_golden_trees(self, load_golden, x64, case, dtype):
        golden = load_golden("dhkd")
        cls, kd, expected, plain = (
            {
                name: array.astype(dtype)
                for name, array in arrays_of(golden, "train_step", f"{case}/{kind}").items()
            }
            for kind in ("grad_cls", "grad_kd", "ga_grad", "sum_grad")
        )
        merged = align(cls, kd)
        assert set(merged) == set(expected) != set()
        for name, grad in merged.items():
            np.testing.assert_allclose(grad, expected[name], **tolerances(dtype))
        is_plain = all(np.allclose(expected[name], plain[name]) for name in expected)
        assert is_plain == (cosine(cls, kd) >= 0)

    @staticmethod
    def dual_head_trees(seed):
        rng = np.random.default_rng(seed)
        backbone, head, other, aux = rng.normal(size=(4, 6)).astype(np.float32)
        return (
            {"backbone": backbone, "head": head, "aux": np.zeros_like(aux)},
            {"backbone": other, "head": np.zeros_like(head), "aux": aux},
        )

    @given(seeds)
    @property_test
    def test_properties(self, seed):
        cls, kd = self.dual_head_trees(seed)
        merged = align(cls, kd)
        flat_cls, flat_kd, flat = (np.concatenate(jax.tree.leaves(g)) for g in (cls, kd, merged))
        dot, squared_norm = flat_kd @ flat_cls, flat_cls @ flat_cls
        assert flat @ flat_cls >= squared_norm * (1 - 1e-5)
        np.testing.assert_array_equal(merged["aux"], kd["aux"])
        if dot >= 0:
            np.testing.assert_array_equal(flat, flat_cls + flat_kd)
        else:
            np.testing.assert_allclose((flat - flat_cls) @ flat_cls, 0.0, atol=1e-4)
            gain = 1 + abs(dot) / squared_norm
            np.testing.assert_allclose(merged["head"], gain * cls["head"], rtol=1e-4)
        stronger = align(cls, jax.tree.map(lambda g: 8 * g, kd))
        assert (stronger["head"] != cls["head"]).any() == (dot < 0)

    def test_scope_removes_the_whole_conflict_of_its_leaves(self):
        cls, kd = self.dual_head_trees(0)
        kd["backbone"] = kd["backbone"] - 2 * cls["backbone"]
        merged = align(cls, kd, scope="backbone")
        rest = np.asarray(merged["backbone"]) - cls["backbone"]
        np.testing.assert_allclose(rest @ cls["backbone"], 0.0, atol=1e-4)
        np.testing.assert_array_equal(merged["head"], cls["head"])
        np.testing.assert_array_equal(merged["aux"], kd["aux"])
        np.testing.assert_allclose(
            merged["backbone"], align(cls["backbone"], kd["backbone"]), rtol=1e-6
        )

    def test_corners(self):
        g, zero = np.float32([1, -2, 4]), np.zeros(3, np.float32)
        np.testing.assert_array_equal(align(zero, g), g)
        np.testing.assert_array_equal(align(g, zero), g)
        np.testing.assert_array_equal(align(g, -4 * g), g)

    def test_keeps_structure_and_dtypes(self):
        cls = {"block": ({"w": jnp.ones((2, 2), jnp.bfloat16)}, jnp.ones(3)), "head": jnp.ones(2)}
        kd = jax.tree.map(lambda x: -x / 2, cls)
        merged = align(cls, kd, scope="block")
        assert jax.tree.map(lambda x: x.dtype, merged) == jax.tree.map(lambda x: x.dtype, cls)
        np.testing.assert_array_equal(merged["head"], 0.5)
        np.testing.assert_array_equal(merged["block"][1], 1.0)

    def test_errors(self):
        tree = {"backbone": np.ones(2), "head": np.ones(2)}
        with pytest.raises(ValueError, match="the same structure"):
            align_gradients(tree, {"backbone": np.ones(2)})
        with pytest.raises(
            ValueError, match=r"scope 'bakbone': did you mean 'backbone'.*backbone, head"
        ):
            align_gradients(tree, tree, scope="bakbone")


class TestGradientCosine:
    def test_hand_computed(self):
        a = {"x": np.float32([3]), "y": np.float32([0])}
        b = {"x": np.float32([1]), "y": np.float32([1])}
        np.testing.assert_allclose(cosine(a, b), math.sqrt(0.5), rtol=1e-6)
        np.testing.assert_allclose(gradient_cosine(a, b), math.sqrt(0.5), rtol=1e-6)
        np.testing.assert_allclose(cosine(a, jax.tree.map(np.negative, a)), -1.0)

    def test_zero_norm(self):
        value, grad = jax.jit(jax.value_and_grad(gradient_cosine))(jnp.zeros(3), jnp.ones(3))
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)

    def test_error(self):
        with pytest.raises(ValueError, match="the same structure"):
            gradient_cosine([np.ones(2)], [])

    @by_dtype
    @pytest.mark.parametrize("case", CONFLICT_CASES)
    def test_golden_linear_classifier(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("dhkd"), "conflict", case)
        inputs = {name: arrays[name].astype(dtype) for name in ("features", "kernel", "bias")}
        results, cosines = classifier_gradients(
            inputs, arrays["teacher"].astype(dtype), arrays["labels"], float(arrays["temperature"])
        )
        close = functools.partial(np.testing.assert_allclose, **tolerances(dtype))
        for name, (value, grads) in results.items():
            close(value, arrays[f"{name}_loss"])
            for part, grad in grads.items():
                close(grad, arrays[f"{name}_grad_{part}"])
        for name, value in cosines.items():
            close(value, arrays[f"cos_{name}"])
        for name in ("bkl", "bkln"):
            per_sample = np.sum(results["ce"][1]["logits"] * results[name][1]["logits"], axis=-1)
            close(per_sample, arrays[f"dot_logits_per_sample_ce_{name}"])
            if name == "bkl":
                inner = logit_conflict(
                    arrays["logits"].astype(dtype),
                    arrays["teacher"].astype(dtype),
                    arrays["labels"],
                    temperature=float(arrays["temperature"]),
                )
                assert inner.dtype == dtype
                # Recorded for the gradients of batch means.
                close(inner / len(inner) ** 2, per_sample)
            if case == "overconfident":
                assert (per_sample < 0).all()
            if case == "underconfident":
                assert (per_sample > 0).all()


@functools.partial(jax.jit, static_argnames="temperature")
def classifier_gradients(inputs, teacher, labels, temperature):
    """Losses of a linear classifier, their gradients, and the cosines of CE's with the others."""

    def cross_entropy(logits):
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
        return -log_probs.mean()

    losses = {
        "ce": cross_entropy,
        "bkl": lambda s: binary_kl_loss(s, teacher, temperature=temperature).mean(),
        "bkln": lambda s: binary_kl_norm_loss(s, teacher, temperature=temperature).mean(),
    }

    def loss_of(inputs, loss):
        logits = jnp.matmul(inputs["features"], inputs["kernel"].T) + inputs["bias"][None]
        return loss(logits + inputs["logits"])

    inputs = inputs | {"logits": jnp.zeros_like(teacher)}
    results = {name: jax.value_and_grad(loss_of)(inputs, loss) for name, loss in losses.items()}
    parts = {"kernel": ["kernel"], "head": ["kernel", "bias"], "features": ["features"]}
    cosines = {
        f"{part}_ce_{name}": gradient_cosine(
            *({key: results[loss][1][key] for key in keys} for loss in ("ce", name))
        )
        for part, keys in parts.items()
        for name in ("bkl", "bkln")
    }
    return results, cosines


class TestGradientConflictReport:
    def test_hand_computed(self):
        cls = {"backbone": {"w": np.float32([3, 0])}, "primary": np.float32([4])}
        kd = {"backbone": {"w": np.float32([0, 2])}, "primary": np.float32([-1])}
        report = gradient_conflict_report(
            cls, kd, {"head": ("primary",), "backbone": ("backbone",)}
        )
        expected = {
            "head": {"dot": -4, "cosine": -1, "norm_cls": 4, "norm_kd": 1},
            "backbone": {"dot": 0, "cosine": 0, "norm_cls": 3, "norm_kd": 2},
            "all": {"dot": -4, "cosine": -4 / 5 / 5**0.5, "norm_cls": 5, "norm_kd": 5**0.5},
        }
        assert report.keys() == expected.keys()
        for part, measures in expected.items():
            assert report[part].keys() == measures.keys()
            for name, value in measures.items():
                np.testing.assert_allclose(report[part][name], value, rtol=1e-6)

    def test_a_part_that_a_loss_does_not_reach(self):
        cls = {"backbone": np.ones(2, np.float32), "primary": np.zeros(2, np.float32)}
        report = gradient_conflict_report(cls, cls, {"head": ("primary",)})["head"]
        assert not any(report.values())

    def test_errors(self):
        tree = {"backbone": np.ones(2), "primary": np.ones(2)}
        with pytest.raises(ValueError, match="the same structure"):
            gradient_conflict_report(tree, {"backbone": np.ones(2)}, {})
        with pytest.raises(ValueError, match=r"partition 'head': did you mean"):
            gradient_conflict_report(tree, tree, {"head": ("head",)})


class TestLogitConflict:
    def test_sign_follows_confidence(self):
        teacher, labels = np.float32([[2, -2], [-2, 2]]), np.array([0, 1])
        np.testing.assert_array_equal(np.sign(logit_conflict(2 * teacher, teacher, labels)), -1)
        np.testing.assert_array_equal(np.sign(logit_conflict(0 * teacher, teacher, labels)), 1)
        np.testing.assert_array_equal(logit_conflict(teacher, teacher, labels), 0)

    def test_hand_computed_and_jitted(self):
        student, teacher = np.float32([[0, 0]]), np.float32([[4, 0]])
        slope = 2 * (0.5 - 1 / (1 + math.exp(-2)))
        value = jax.jit(logit_conflict)(student, teacher, np.array([0]))
        np.testing.assert_allclose(value, [-0.5 * slope], rtol=1e-6)

    def test_errors(self):
        logits = np.zeros((2, 3), np.float32)
        with pytest.raises(ValueError, match="same shape"):
            logit_conflict(logits, logits[:1], np.zeros(2, int))
        with pytest.raises(ValueError, match="one entry per row"):
            logit_conflict(logits, logits, np.zeros(3, int))


class TestEtfDeviation:
    @staticmethod
    def simplex_frame(seed, num_classes=4, width=7):
        centred = np.eye(num_classes) - 1 / num_classes
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, num_classes)))[0]
        return (centred @ basis.T).astype(np.float32)

    def test_hand_computed(self):
        diagonal, rest = 1 / math.sqrt(2) - 0.5, 0.5
        expected = math.sqrt(2 * diagonal**2 + 2 * rest**2)
        np.testing.assert_allclose(etf_deviation(np.eye(2)), expected, rtol=1e-6)
        np.testing.assert_allclose(deviation(np.eye(2)), expected, rtol=1e-6)

    def test_golden_frame(self, load_golden):
        golden = load_golden("dhkd")
        kernel = golden["conflict/etf", "kernel"]
        assert deviation(kernel) < 1e-6
        assert deviation(golden["conflict/random", "kernel"]) > 0.1
        # On a frame, conflict on the features is conflict on the logits, sample by sample.
        num_classes = len(kernel)
        factor = np.sum(kernel[0] ** 2) * num_classes / (num_classes - 1)
        for name in ("bkl", "bkln"):
            on_logits, on_features = (
                golden["conflict/etf", f"dot_{kind}_per_sample_ce_{name}"]
                for kind in ("logits", "features")
            )
            np.testing.assert_allclose(on_features, factor * on_logits, rtol=1e-9)

    @given(seeds, st.sampled_from([1e-3, 1.0, 40.0]))
    @property_test
    def test_zero_for_every_scaled_and_turned_frame(self, seed, scale):
        assert deviation(np.float32(scale) * self.simplex_frame(seed)) < 2e-6

    def test_corners(self):
        value_and_grad = jax.jit(jax.value_and_grad(etf_deviation))
        value, grad = value_and_grad(np.zeros((4, 7), np.float32))
        np.testing.assert_allclose(value, 1.0, rtol=1e-6)
        np.testing.assert_array_equal(grad, 0.0)
        assert np.isfinite(value_and_grad(self.simplex_frame(0))[1]).all()

    def test_check_grads(self, x64):
        kernel = np.random.default_rng(0).normal(size=(3, 4))
        check_grads(deviation, (kernel,), order=1, modes=["rev"])

    @pytest.mark.parametrize("shape", [(3,), (1, 4)])
    def test_errors(self, shape):
        with pytest.raises(ValueError, match="at least 2 classes"):
            etf_deviation(np.zeros(shape, np.float32))
