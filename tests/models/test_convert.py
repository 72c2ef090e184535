"""Reading published weights: what fits is converted, all else is refused in words."""

import io
import json
import pickle
import struct
import zipfile

import chex
import numpy as np
import pytest

from jaxrobust.commands import cli
from jaxrobust.errors import UserError
from jaxrobust.models.convert import convert_state_dict
from jaxrobust.models.storage import load_classifier
from jaxrobust.models.torch_files import read_checkpoint, read_state_dict
from jaxrobust.models.torch_names import canonical_names


def _resnet8(num_classes=3):
    """A state dict of RepDistiller's resnet8."""
    random = np.random.default_rng(0)
    tensors = {}

    def add(name, *shape):
        tensors[name] = random.standard_normal(shape).astype(np.float32)

    def norm(name, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.{leaf}", width)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    add("conv1.weight", 16, 3, 3, 3)
    norm("bn1", 16)
    before = 16
    for stage, width in enumerate((16, 32, 64), 1):
        prefix = f"layer{stage}.0"
        add(f"{prefix}.conv1.weight", width, before, 3, 3)
        norm(f"{prefix}.bn1", width)
        add(f"{prefix}.conv2.weight", width, width, 3, 3)
        norm(f"{prefix}.bn2", width)
        if width != before:
            add(f"{prefix}.downsample.0.weight", width, before, 1, 1)
            norm(f"{prefix}.downsample.1", width)
        before = width
    add("fc.weight", num_classes, 64)
    add("fc.bias", num_classes)
    return tensors


TYPES = {"float32": "F32", "int64": "I64"}


def _safetensors(tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        content = tensor.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {
            "dtype": TYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": offsets,
        }
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class _Global:
    """Pickles as the name of something in a module that need not be there."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key, kind, content, size):
        self.key, self.kind, self.content, self.size = key, kind, content, size


class _Call:
    """Pickles as a call of a global."""

    def __init__(self, module, name, *arguments):
        self.function, self.arguments = _Global(module, name), arguments


class _Pickler(pickle._Pickler):
    """Writes what `torch.save` writes, without PyTorch."""

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", _Global("torch", value.kind), value.key, "cpu", value.size)
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


class _LegacyPickler(_Pickler):
    """As before PyTorch 1.6, with the view that a storage is of another."""

    def persistent_id(self, value):
        reference = super().persistent_id(value)
        return reference and (*reference, None)


def _torch_zip(path, value, storages=()):
    content = io.BytesIO()
    _Pickler(content, protocol=2).dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/version", "3\n")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.content)


def _torch_legacy(path, value, storages=()):
    """What `torch.save` wrote before PyTorch 1.6."""
    content = io.BytesIO()
    keys = [storage.key for storage in storages]
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, keys):
        _LegacyPickler(content, protocol=2).dump(part)
    for storage in storages:
        content.write(struct.pack("<q", storage.size) + storage.content)
    path.write_bytes(content.getvalue())


FORMATS = {"zip": _torch_zip, "legacy": _torch_legacy}


def _torch_tensors(tensors):
    kinds = {"float32": "FloatStorage", "int64": "LongStorage"}
    calls, storages = {}, []
    for i, (name, tensor) in enumerate(tensors.items()):
        storage = _Storage(str(i), kinds[tensor.dtype.name], tensor.tobytes(), tensor.size)
        strides = tuple(step // tensor.itemsize for step in tensor.strides)
        call = ("torch._utils", "_rebuild_tensor_v2", storage, 0, tensor.shape, strides, False, {})
        calls[name] = _Call(*call)
        storages.append(storage)
    return calls, storages


@pytest.fixture(scope="module")
def converted():
    return convert_state_dict("resnet8", _resnet8())


def test_every_tensor_has_its_place(converted):
    tensors = _resnet8()
    num_classes, variables = converted
    assert num_classes == 3
    params, stats = variables["params"], variables["batch_stats"]
    backbone = params["backbone"]
    np.testing.assert_array_equal(
        backbone["blocks_1"]["Conv_2"]["Conv_0"]["kernel"],
        tensors["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        stats["backbone"]["blocks_2"]["BatchNorm_1"]["BatchNorm_0"]["var"],
        tensors["layer3.0.bn2.running_var"],
    )
    np.testing.assert_array_equal(params["primary"]["Dense_0"]["kernel"], tensors["fc.weight"].T)


@pytest.mark.parametrize(
    "kind",
    ["pth", "module.pth", "model.pth", "state_dict.pth", "safetensors", "legacy.pth"],
)
def test_command_converts_every_kind_of_file(kind, tmp_path, converted, capsys):
    path, tensors = tmp_path / f"teacher.{kind}", _resnet8()
    if kind == "safetensors":
        path.write_bytes(_safetensors(tensors))
    else:
        if kind == "module.pth":
            tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
        calls, storages = _torch_tensors(tensors)
        wrapper = kind.removesuffix("pth").rstrip(".")
        if wrapper in ("model", "state_dict"):
            calls = {wrapper: calls, "epoch": 240, "accuracy": 79.42}
        FORMATS["legacy" if kind == "legacy.pth" else "zip"](path, calls, storages)
    found = read_state_dict(path)
    expected = _resnet8()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)
    if kind == "model.pth":
        out = tmp_path / "teacher"
        arguments = ["--arch=resnet8", f"--from={path}", f"--to={out}"]
        assert cli.main(["convert", *arguments]) == 0
        assert "resnet8, 3 classes, 77,587 parameters" in capsys.readouterr().out
        stored = load_classifier(out)
        assert (stored.arch, stored.num_classes) == ("resnet8", 3)
        chex.assert_trees_all_equal(stored.variables, converted[1])
        assert cli.main(["convert", *arguments]) == 2
        assert "already holds a model" in capsys.readouterr().err


def _without(name):
    return {k: v for k, v in _resnet8().items() if k != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (_without("layer2.0.bn1.running_var"), r"not a state dict of resnet8.*layer2\.0\.bn1"),
        (_without("layer3.0.conv2.weight"), r"No tensor was given for .*layer3\.0\.conv2"),
        ({**_resnet8(), "fc3.weight": np.zeros((3, 64))}, r"no place for the tensor fc3\.weight"),
        ({**_resnet8(), "bn1.bias": np.zeros(17)}, r"bn1\.bias has shape \(17,\)"),
        (
            {**_resnet8(), "linear.weight": np.zeros((3, 64))},
            r"fc\.weight and linear\.weight have the same role",
        ),
        (_without("fc.weight"), "no classifier"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, message):
    with pytest.raises(UserError, match=message):
        convert_state_dict("resnet8", tensors)


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        # timm's RepVGG; its authors' names are ours.
        ("stem.conv_kxk.conv.weight", "stage0.rbr_dense.conv.weight"),
        ("stages.0.1.conv_1x1.bn.running_var", "stage1.1.rbr_1x1.bn.running_var"),
        ("stages.3.0.identity.weight", "stage4.0.rbr_identity.weight"),
        ("head.fc.bias", "fc.bias"),
        ("stage1.0.rbr_dense.conv.weight", "stage1.0.rbr_dense.conv.weight"),
        # Swin by its authors, whose stages end with merging; torchvision's names are ours.
        ("patch_embed.proj.weight", "features.0.0.weight"),
        ("patch_embed.norm.bias", "features.0.2.bias"),
        ("layers.2.blocks.5.attn.qkv.weight", "features.5.5.attn.qkv.weight"),
        ("layers.0.downsample.reduction.weight", "features.2.reduction.weight"),
        ("layers.3.blocks.0.mlp.fc2.bias", "features.7.0.mlp.3.bias"),
        ("features.1.0.mlp.0.weight", "features.1.0.mlp.0.weight"),
        # torchvision's and timm's heads.
        ("classifier.1.weight", "fc.weight"),
        ("head.weight", "fc.weight"),
        ("classifier.bias", "fc.bias"),
        # ResNets.
        ("layer2.0.shortcut.1.running_mean", "layer2.0.downsample.1.running_mean"),
    ],
)
def test_other_authors_names(published, ours):
    assert canonical_names([published]) == {ours: published}


def test_stages_of_timms_swin_begin_with_merging():
    published = ["layers.1.downsample.norm.weight", "layers.3.downsample.reduction.weight"]
    ours = ["features.2.norm.weight", "features.6.reduction.weight"]
    assert canonical_names(published) == dict(zip(ours, published, strict=True))


def test_names_of_tonylins_mobilenet_v2():
    published = {
        "features.0.0.weight": "features.0.0.weight",
        "features.1.conv.0.weight": "features.1.conv.0.0.weight",
        "features.1.conv.4.bias": "features.1.conv.2.bias",
        "features.2.conv.1.running_var": "features.2.conv.0.1.running_var",
        "features.2.conv.3.weight": "features.2.conv.1.0.weight",
        "features.2.conv.7.weight": "features.2.conv.3.weight",
        "conv.1.weight": "features.18.1.weight",
        "classifier.weight": "fc.weight",
    }
    assert canonical_names(published) == {ours: theirs for theirs, ours in published.items()}


def test_names_of_timms_efficientnet():
    published = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.bias": "_bn0.bias",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.0.0.bn2.weight": "_blocks.0._bn2.weight",
        "blocks.1.0.conv_pwl.weight": "_blocks.1._project_conv.weight",
        "blocks.1.1.conv_pw.weight": "_blocks.2._expand_conv.weight",
        "blocks.2.0.bn3.running_mean": "_blocks.3._bn2.running_mean",
        "conv_head.weight": "_conv_head.weight",
        "bn2.weight": "_bn1.weight",
        "classifier.weight": "fc.weight",
    }
    assert canonical_names(published) == {ours: theirs for theirs, ours in published.items()}


def test_unknown_architecture_is_refused_before_the_file_is_read(tmp_path, capsys):
    arguments = ["--arch=resnet32x5", f"--from={tmp_path / 'none.pth'}", f"--to={tmp_path}"]
    assert cli.main(["convert", *arguments]) == 2
    assert "did you mean 'resnet32x4'" in capsys.readouterr().err
    assert cli.main(["convert", "--arch=resnet8", *arguments[1:]]) == 2
    assert "There is no file" in capsys.readouterr().err


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_pickles_that_name_anything_else_run_nothing(write, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    attacks = [
        _Call("os", "mkdir", str(trace)),
        _Call("posix", "mkdir", str(trace)),
        _Call("builtins", "eval", f"__import__('os').mkdir({str(trace)!r})"),
        _Call("builtins", "getattr", {}, "keys"),
        _Call("torch.storage", "_load_from_bytes", b"\x80\x02."),
        _Call("torch._utils", "_rebuild_tensor_v2.__globals__"),
        _Call("numpy.core.multiarray", "_reconstruct"),
    ]
    for attack in attacks:
        write(path, {"conv1.weight": attack})
        with pytest.raises(UserError, match=r"Refused to read .*evil\.pth: it asks for"):
            read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2,), (1 << 40,))],
)
@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_tensors_never_reach_beyond_their_storage(write, offset, shape, strides, tmp_path):
    path = tmp_path / "beyond.pth"
    storage = _Storage("0", "FloatStorage", np.zeros(4, np.float32).tobytes(), 4)
    call = ("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, {})
    write(path, {"conv1.weight": _Call(*call)}, [storage])
    with pytest.raises(UserError, match="exceeds its storage"):
        read_state_dict(path)


def test_strided_tensors_and_settings_of_a_training_script_are_read(tmp_path):
    path = tmp_path / "strided.pth"
    storage = _Storage("0", "FloatStorage", np.arange(6, dtype=np.float32).tobytes(), 6)
    call = ("torch._utils", "_rebuild_tensor_v2", storage, 1, (2, 2), (1, 2), False, {})
    parameter = _Call("torch._utils", "_rebuild_parameter", _Call(*call), True, {})
    empty = _Storage("1", "FloatStorage", b"", 0)
    nothing = _Call("torch._utils", "_rebuild_tensor_v2", empty, 0, (0,), (1,), False, {})
    content = {"opt": _Call("argparse", "Namespace"), "model": {"a": parameter, "b": nothing}}
    _torch_zip(path, content, [storage, empty])
    found = read_state_dict(path)
    np.testing.assert_array_equal(found["a"], [[1, 3], [2, 4]])
    assert found["b"].shape == (0,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pth", pickle.dumps(0x1950A86A20F9469CFC6C, 2), "Refused to read"),
        ("other.pth", pickle.dumps({"conv1.weight": 3}, 2), "does not begin as PyTorch's files"),
        ("cut.safetensors", _safetensors(_resnet8())[:-4], "not a safetensors file, or damaged"),
        ("cut.safetensors", b"\xff" * 16, "not a safetensors file, or damaged"),
        ("list.safetensors", struct.pack("<Q", 2) + b"[]", "not a safetensors file, or damaged"),
    ],
)
def test_damaged_files_are_refused_with_the_remedy(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(path)


def test_a_pickle_without_state_dict_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    for value in ([1, 2], {"epoch": 3}, {}):
        _torch_zip(path, value)
        with pytest.raises(UserError, match="does not hold a state dict"):
            read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(UserError, match="Refused to read"):
        read_state_dict(path)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_damaged_files_never_do_more_than_be_refused(write, tmp_path):
    path = tmp_path / "weights.pth"
    calls, storages = _torch_tensors({"a": np.ones((2, 3), np.float32), "b": np.array([5])})
    write(path, {"epoch": 3, "model": calls}, storages)
    content, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for trial in range(600):
        damaged = np.frombuffer(content, np.uint8).copy()
        if trial % 3 == 0:
            damaged = damaged[: random.integers(len(damaged))]
        else:
            places = random.integers(len(damaged), size=random.integers(1, 5))
            damaged[places] = random.integers(0, 256, len(places))
        path.write_bytes(damaged.tobytes())
        try:
            assert all(isinstance(array, np.ndarray) for array in read_state_dict(path).values())
        except UserError:
            refused += 1
    assert refused > 100


def test_sizes_that_a_legacy_file_claims_are_not_believed(tmp_path):
    path = tmp_path / "weights.pth"
    calls, (storage,) = _torch_tensors({"a": np.ones(4, np.float32)})
    for size in (5, -1, 1 << 60):
        storage.size = size
        _torch_legacy(path, calls, [storage])
        with pytest.raises(UserError, match="it is cut short"):
            read_state_dict(path)
    # An array of bytes of protocol 5 would be allocated before it is read.
    path.write_bytes(b"\x80\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40))
    with pytest.raises(UserError, match="Refused to read"):
        read_state_dict(path)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_what_lies_beside_the_weights_is_skipped(write, tmp_path):
    path = tmp_path / "checkpoint.pth"
    scalar = _Call(
        "numpy._core.multiarray",
        "scalar",
        _Call("numpy", "dtype", "f8", False, True),
        _Call("_codecs", "encode", "abcdefgh", "latin1"),
    )
    beside = {
        "best": scalar,
        "milestones": _Call("collections", "Counter", {150: 1}),
        "history": _Call("collections", "defaultdict", _Global("__builtin__", "list")),
        "shape": _Call("torch", "Size", (3, 4)),
        "device": _Call("torch", "device", "cuda", 0),
        "dtype": _Global("torch", "float32"),
        "from": _Call("pathlib", "PosixPath", "/", "home"),
        "seen": _Call("__builtin__", "set", [1, 2]),
    }
    calls, storages = _torch_tensors({"a": np.ones(4, np.float32)})
    write(path, {**beside, "model": calls}, storages)
    assert read_state_dict(path).keys() == {"a"}
    write(path, {"a": scalar})
    with pytest.raises(UserError, match="'a' is not a tensor"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "wrapper", ["net", "model_state_dict", "model_ema", "student", "model", "state_dict"]
)
def test_wrappers_of_a_state_dict_are_opened(wrapper, tmp_path):
    calls, storages = _torch_tensors({"a": np.ones(4, np.float32)})
    _torch_zip(tmp_path / "checkpoint.pth", {"epoch": 3, wrapper: calls}, storages)
    found = read_checkpoint(tmp_path / "checkpoint.pth")
    assert found.tensors.keys() == {"a"}
    assert (found.taken, found.left) == ((wrapper,), ())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.a", "model.b"], ["a", "b"]),
        (["_orig_mod.module.a"], ["a"]),
        (["module.student.a", "module.teacher.a", "module.embed.b"], ["a"]),
        (["backbone.a", "backbone.b"], ["a", "b"]),
        (["module.backbone.a", "module.fc.weight"], ["a", "fc.weight"]),
        (["backbone.fc.weight", "fc.weight"], ["backbone.fc.weight", "fc.weight"]),
        (["model.0.0.weight", "fc.weight"], ["model.0.0.weight", "fc.weight"]),  # MobileNetV1
    ],
)
def test_prefixes_are_taken_off(names, expected, tmp_path):
    tensors = {name: np.full(1, i, np.float32) for i, name in enumerate(names)}
    calls, storages = _torch_tensors(tensors)
    _torch_zip(tmp_path / "weights.pth", calls, storages)
    assert list(read_state_dict(tmp_path / "weights.pth")) == expected


def test_the_command_says_which_of_weights_and_moving_average_it_took(tmp_path, capsys):
    path, plain = tmp_path / "checkpoint.pth", _resnet8()
    both = {f"0{name}": tensor for name, tensor in plain.items()}
    both |= {f"1{name}": tensor + 1 for name, tensor in plain.items()}
    calls, storages = _torch_tensors(both)
    value = {
        key: {name[1:]: call for name, call in calls.items() if name[0] == kind}
        for kind, key in (("0", "model"), ("1", "model_ema"))
    }
    _torch_legacy(path, value, storages)
    for flags, taken, left in (([], "model", "model_ema"), (["--ema"], "model_ema", "model")):
        arguments = ["--arch=resnet8", f"--from={path}", f"--to={tmp_path / taken}", *flags]
        assert cli.main(["convert", *arguments]) == 0
        assert f"Converted: {taken}; the file also holds {left} (" in capsys.readouterr().out
    kernels = [
        load_classifier(tmp_path / name).variables["params"]["primary"]["Dense_0"]["kernel"]
        for name in ("model", "model_ema")
    ]
    np.testing.assert_array_equal(kernels[1], kernels[0] + 1)
    _torch_zip(path, {"model": value["model"]}, storages)
    assert cli.main(["convert", *arguments[:2], f"--to={tmp_path / 'third'}", "--ema"]) == 2
    assert "holds no moving average" in capsys.readouterr().err


def test_the_command_records_what_is_known_of_the_images(tmp_path, capsys):
    path, names = tmp_path / "weights.safetensors", tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n")
    path.write_bytes(_safetensors(_resnet8()))
    given = ["--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25", "--size=64", f"--classes={names}"]
    arguments = ["--arch=resnet8", f"--from={path}"]
    assert cli.main(["convert", *arguments, f"--to={tmp_path / 'given'}", *given]) == 0
    stored = load_classifier(tmp_path / "given")
    assert (stored.mean, stored.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (stored.image_shape, stored.class_names) == ((64, 64, 3), ("ant", "bee", "cat"))
    assert cli.main(["convert", *arguments, f"--to={tmp_path / 'unknown'}"]) == 0
    assert "does not state how images are normalised" in capsys.readouterr().out
    path.write_bytes(_safetensors(_resnet8(num_classes=1000)))
    assert cli.main(["convert", *arguments, f"--to={tmp_path / 'imagenet'}"]) == 0
    assert load_classifier(tmp_path / "imagenet").mean == (0.485, 0.456, 0.406)
    assert "(ImageNet's)" in capsys.readouterr().out
    for wrong, message in ((given[:1], "go together"), (given[3:], "has 3 lines, but there are")):
        assert cli.main(["convert", *arguments, f"--to={tmp_path / 'wrong'}", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_the_second_head_of_a_dhkd_student_is_left_out(converted):
    second = {"fc2.weight": np.ones((3, 64), np.float32), "fc2.bias": np.ones(3, np.float32)}
    _, variables = convert_state_dict("resnet8", {**_resnet8(), **second})
    chex.assert_trees_all_equal(variables, converted[1])
