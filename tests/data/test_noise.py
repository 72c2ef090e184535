"""Tests of label noise and of CIFAR-N's files; "check n" is one of DPC's."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from jaxrobust.data.noise import (
    CIFARN_KEYS,
    asymmetric_noise_cifar10,
    asymmetric_noise_cifar100,
    asymmetric_transition_cifar10,
    asymmetric_transition_cifar100,
    flip_labels,
    pairflip_transition,
    read_cifarn_labels,
    symmetric_noise,
    symmetric_transition,
    transition_matrix,
)
from jaxrobust.errors import DataError

NOISE_OF = {10: asymmetric_noise_cifar10, 100: asymmetric_noise_cifar100}
TRANSITION_OF = {10: asymmetric_transition_cifar10, 100: asymmetric_transition_cifar100}


class TestGolden:
    @pytest.mark.parametrize(("num_classes", "rate"), [(10, 0.2), (100, 0.5)])
    def test_symmetric_noise(self, load_golden, num_classes, rate):  # check 11
        golden = load_golden("dpc")
        clean = golden["noise", f"clean_cifar{num_classes}"]
        noisy = symmetric_noise(clean, rate, 123, num_classes)
        expected = golden["noise", f"sym_cifar{num_classes}_r{rate}_seed123"]
        np.testing.assert_array_equal(noisy, expected)

    @pytest.mark.parametrize("num_classes", [10, 100])
    @pytest.mark.parametrize(("rate", "seed"), [(0.4, 0), (0.1, 1)])
    def test_asymmetric_noise(self, load_golden, num_classes, rate, seed):  # check 11
        golden = load_golden("dpc")
        clean = golden["noise", f"clean_cifar{num_classes}"][:4000]
        expected = golden["noise", f"asym_cifar{num_classes}_r{rate}_seed{seed}"]
        np.testing.assert_array_equal(NOISE_OF[num_classes](clean, rate, seed), expected)
        transition = golden["noise", f"asym_cifar{num_classes}_r{rate}_P"]
        np.testing.assert_array_equal(TRANSITION_OF[num_classes](rate), transition)

    @pytest.mark.parametrize("case", ["sym10", "pair10", "sym100"])
    def test_flip_labels(self, load_golden, case):
        golden = load_golden("bldr")

        def recorded(name):
            return golden["noise", f"{case}/{name}"]

        builders = {"symmetric": symmetric_transition, "pairflip": pairflip_transition}
        transition = builders[str(recorded("kind"))](
            float(recorded("rate")), int(recorded("num_classes"))
        )
        noisy = flip_labels(recorded("labels"), transition, int(recorded("random_state")))
        np.testing.assert_array_equal(noisy, recorded("noisy"))
        np.testing.assert_allclose(np.mean(noisy != recorded("labels")), recorded("actual_rate"))

    def test_classes_of_probability_zero_take_no_draw(self):
        """`RandomState(0).multinomial(1, row)` of NumPy 2.4; 2.5 gives 2 2 2 3 3 ... instead."""
        transition = np.tile([0, 0, 0.4, 0.6, 0], (5, 1))
        noisy = flip_labels(np.zeros(12, int), transition, 0)
        np.testing.assert_array_equal(noisy, [3, 2, 3, 2, 3, 2, 3, 3, 2, 3, 3, 2])


class TestGenerators:
    clean = np.random.default_rng(0).integers(0, 10, 4000)

    @pytest.mark.parametrize(
        ("noise", "wrong"),
        [
            (lambda y: symmetric_noise(y, 0.4, 1, 10), 0.4 * 0.9),
            (lambda y: flip_labels(y, symmetric_transition(0.4, 10), 1), 0.4),
            (lambda y: flip_labels(y, pairflip_transition(0.3, 10), 1), 0.3),
            (lambda y: asymmetric_noise_cifar10(y, 0.4, 1), 0.2),
            (lambda y: asymmetric_noise_cifar100(y, 0.4, 1), 0.4),
        ],
    )
    def test_realised_rate(self, noise, wrong):  # check 11
        before = self.clean.copy()
        noisy = noise(self.clean)
        assert noisy.dtype == self.clean.dtype
        np.testing.assert_array_equal(self.clean, before)
        sigma = np.sqrt(wrong * (1 - wrong) / len(noisy))
        assert abs(np.mean(noisy != self.clean) - wrong) < 3 * sigma

    def test_asymmetric_noise_leaves_five_classes_of_cifar10(self):  # check 11
        noisy = asymmetric_noise_cifar10(self.clean, 1.0, 0)
        kept = np.isin(self.clean, [0, 1, 6, 7, 8])
        np.testing.assert_array_equal(noisy[kept], self.clean[kept])
        for clean, confused in ((9, 1), (2, 0), (3, 5), (5, 3), (4, 7)):
            assert np.all(noisy[self.clean == clean] == confused)

    @pytest.mark.parametrize("groups", ["blocks", "superclasses"])
    def test_asymmetric_noise_of_cifar100_goes_around_groups_of_five(self, groups):
        step = asymmetric_transition_cifar100(1.0, groups=groups)
        np.testing.assert_array_equal(np.linalg.matrix_power(step.astype(int), 5), np.eye(100))
        assert not np.any(np.diag(step))
        target = step.argmax(axis=1)
        if groups == "blocks":
            np.testing.assert_array_equal(target[:5], [1, 2, 3, 4, 0])
        else:  # beaver, dolphin, otter, seal, whale: the aquatic mammals
            np.testing.assert_array_equal(target[[4, 30, 55, 72, 95]], [30, 55, 72, 95, 4])

    def test_noise_cifar100_of_the_superclasses(self):
        y = np.array([4, 30, 55, 72, 95])
        noisy = asymmetric_noise_cifar100(y, 1.0, 0, groups="superclasses")
        np.testing.assert_array_equal(noisy, [30, 55, 72, 95, 4])

    def test_no_noise_and_no_labels(self):
        np.testing.assert_array_equal(symmetric_noise(self.clean, 0.0, 5, 10), self.clean)
        np.testing.assert_array_equal(asymmetric_noise_cifar10(self.clean, 0.0, 5), self.clean)
        assert symmetric_noise(np.zeros(0, int), 0.5, 0, 10).shape == (0,)

    def test_seed_decides_and_no_global_generator_is_touched(self):
        np.random.seed(0)
        state = np.random.get_state()[1].copy()
        first, again, other = (
            symmetric_noise(self.clean, 0.5, seed, 10) for seed in (1, np.int64(1), 2)
        )
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        flip_labels(self.clean[:10], symmetric_transition(0.5, 10), 3)
        np.testing.assert_array_equal(np.random.get_state()[1], state)

    def test_small_types_grow_where_a_class_needs_it(self):
        noisy = symmetric_noise(np.zeros(2000, np.uint8), 1.0, 0, 1000)
        assert noisy.max() > 255
        assert symmetric_noise(np.zeros(9, np.uint8), 1.0, 0, 256).dtype == np.uint8

    def test_transitions(self):
        np.testing.assert_allclose(
            symmetric_transition(0.3, 4), 0.1 + np.diag(np.full(4, 0.6)), rtol=1e-12
        )
        expected = [[0.7, 0.3, 0], [0, 0.7, 0.3], [0.3, 0, 0.7]]
        np.testing.assert_allclose(pairflip_transition(0.3, 3), expected, rtol=1e-12)

    def test_transition_matrix(self):
        counted = transition_matrix(np.array([0, 0, 0, 1]), np.array([0, 2, 2, 1]), 3)
        np.testing.assert_allclose(counted, [[1 / 3, 0, 2 / 3], [0, 1, 0], [0, 0, 1]])
        # A row is divided by its own count, also where classes are not balanced.
        clean = np.repeat([0, 1], [3000, 1000])
        noisy = flip_labels(clean, pairflip_transition(0.3, 2), 0)
        np.testing.assert_allclose(
            transition_matrix(clean, noisy, 2), pairflip_transition(0.3, 2), atol=0.05
        )

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda y: symmetric_noise(y, 1.5, 0, 10), r"rate must lie in \[0, 1\]"),
            (lambda y: symmetric_noise(y, 0.5, 0, 1), "num_classes must be at least 2"),
            (lambda y: symmetric_noise(y, 0.5, 0, 5), "must lie in 0..4, but go from 0 to 9"),
            (lambda y: symmetric_noise(y - 1, 0.5, 0, 10), "but go from -1"),
            (lambda y: symmetric_noise(y / 2, 0.5, 0, 10), "vector of integers"),
            (lambda y: symmetric_noise(y[:, None], 0.5, 0, 10), "vector of integers"),
            (lambda y: asymmetric_noise_cifar10(y + 1, 0.5, 0), "must lie in 0..9"),
            (lambda y: asymmetric_noise_cifar100(y, -0.1, 0), "rate must lie in"),
            (lambda y: asymmetric_noise_cifar100(y, 0.1, 0, groups="super"), "'superclasses'"),
            (lambda y: flip_labels(y, np.eye(10)[:5], 0), r"must be \[C, C\]"),
            (lambda y: flip_labels(y, 2 * np.eye(10), 0), "sum to 1"),
            (lambda y: pairflip_transition(0.5, 1), "num_classes must be at least 2"),
            (lambda y: transition_matrix(y, y[:5], 10), "the same length"),
        ],
    )
    def test_wrong_arguments_are_refused_in_words(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(self.clean)


class Malicious:
    """A pickle that runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def write_labels(path, record, *, protocol=2, member="archive/data.pkl"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, pickle.dumps(record, protocol=protocol))
        archive.writestr("archive/version", "3")
    return path


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(0)
    keys = {key for name, key in CIFARN_KEYS.items() if not name.endswith("100")}
    return {key: rng.integers(0, 10, 50_000) for key in sorted(keys)}


class TestCifarN:
    @pytest.mark.parametrize("protocol", [2, 4])
    def test_names_of_the_papers(self, tmp_path, record, protocol):
        path = write_labels(tmp_path / "CIFAR-10_human.pt", record, protocol=protocol)
        for name, key in (
            ("clean", "clean_label"),
            ("aggre", "aggre_label"),
            ("worst", "worse_label"),
            ("rand1", "random_label1"),
            ("rand2", "random_label2"),
            ("rand3", "random_label3"),
            ("worse_label", "worse_label"),
        ):
            labels = read_cifarn_labels(path, name)
            assert labels.dtype == np.int32
            np.testing.assert_array_equal(labels, record[key])

    def test_cifar100_and_a_string_as_path(self, tmp_path, record):
        other = {"clean_label": record["clean_label"], "noisy_label": record["aggre_label"]}
        path = str(write_labels(tmp_path / "CIFAR-100_human.pt", other))
        np.testing.assert_array_equal(read_cifarn_labels(path, "noisy100"), other["noisy_label"])
        np.testing.assert_array_equal(read_cifarn_labels(path, "clean100"), other["clean_label"])

    def test_a_wrong_key_lists_the_names_in_the_file(self, tmp_path, record):
        path = write_labels(tmp_path / "CIFAR-10_human.pt", record)
        with pytest.raises(DataError, match=r"'agre': did you mean 'aggre'\?.*worst, rand1") as e:
            read_cifarn_labels(path, "agre")
        assert "random_label3" in str(e.value) and "noisy100" not in str(e.value)

    def test_other_true_labels_are_refused(self, tmp_path, record):
        path = write_labels(tmp_path / "CIFAR-10_human.pt", record)
        clean = record["clean_label"].astype(np.uint8)
        read_cifarn_labels(path, "worst", clean_labels=clean)
        for other in (np.roll(clean, 1), clean[:100]):
            with pytest.raises(DataError, match="differ from those of the data set"):
                read_cifarn_labels(path, "worst", clean_labels=other)

    @pytest.mark.parametrize(
        "labels", [np.zeros(49_999, int), np.zeros((50_000, 1), int), np.zeros(50_000), [0, 1]]
    )
    def test_anything_but_fifty_thousand_integers_is_refused(self, tmp_path, labels):
        path = write_labels(tmp_path / "CIFAR-10_human.pt", {"aggre_label": labels})
        with pytest.raises(DataError, match=r"aggre_label of .* must be 50000 integers"):
            read_cifarn_labels(path, "aggre")

    def test_code_is_refused_and_not_run(self, tmp_path):
        trace = tmp_path / "trace"
        path = write_labels(tmp_path / "CIFAR-10_human.pt", {"aggre_label": Malicious(trace)})
        with pytest.raises(DataError, match=r"Refused to unpickle .*system"):
            read_cifarn_labels(path, "aggre")
        assert not trace.exists()

    @pytest.mark.parametrize("value", [[1, 2], {}, 7])
    def test_a_pickle_of_something_else(self, tmp_path, value):
        path = write_labels(tmp_path / "CIFAR-10_human.pt", value)
        with pytest.raises(DataError, match="no table of label sets"):
            read_cifarn_labels(path, "aggre")

    def test_keys_that_are_no_names(self, tmp_path):
        path = write_labels(tmp_path / "CIFAR-10_human.pt", {3: 4})
        with pytest.raises(DataError, match="Unknown label set 'aggre'"):
            read_cifarn_labels(path, "aggre")

    def test_another_zip(self, tmp_path, record):
        path = write_labels(tmp_path / "images.zip", record, member="archive/images")
        with pytest.raises(DataError, match="not one of CIFAR-N's label files"):
            read_cifarn_labels(path, "aggre")

    def test_a_pickle_that_would_fill_the_memory(self, tmp_path):
        path = tmp_path / "CIFAR-10_human.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(65 * 2**20))
        with pytest.raises(DataError, match="not one of CIFAR-N's label files"):
            read_cifarn_labels(path, "aggre")

    def test_no_zip_damaged_zip_and_missing_file(self, tmp_path, record):
        missing, text, damaged = (tmp_path / name for name in ("missing.pt", "text.pt", "cut.pt"))
        text.write_text("404: Not Found")
        content = io.BytesIO()
        write_labels(content, record)
        content = bytearray(content.getvalue())
        content[1000] ^= 1
        damaged.write_bytes(content)
        for path in (missing, text, damaged):
            with pytest.raises(DataError, match=r"Cannot read .*Get CIFAR-10_human.pt"):
                read_cifarn_labels(path, "aggre")
