"""Tests of the models' scripts. Run with the Python of models/build: python -m pytest models

They fetch the same packages as the scripts do and keep them in $FLOTILLA_CACHE; all else goes to a temporary folder.
"""

import collections
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import clip_vision
import efficientnet_lite0
import graph
import legacy_pth
import photos
import send

HERE = Path(__file__).resolve().parent
LABELS = json.loads((HERE / "imagenet_labels.json").read_text())


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("efficientnet") / "model.onnx"
    graph.save(efficientnet_lite0.build(efficientnet_lite0.weights()), path)
    return path


@pytest.fixture(scope="module")
def answers(efficientnet, tmp_path_factory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The embedding and the logits of each photo, all from one batch."""
    paths = photos.make(tmp_path_factory.mktemp("photos"))
    batch = np.stack([preprocess(path) for path in paths])
    embeddings, logits = run(efficientnet, ["embedding", "logits"], batch)
    return {path.name: (embedding, logit) for path, embedding, logit in zip(paths, embeddings, logits, strict=True)}


def test_every_photo_gets_its_label(answers):
    first = {}
    for name, (_, logits) in answers.items():
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = np.argsort(-probabilities)[:5]
        first[name] = LABELS[best[0]]
        print(f"{name:26}", ", ".join(f"{LABELS[index]} {probabilities[index]:.2f}" for index in best))
    assert first.keys() == send.EXPECTED_LABELS.keys()
    assert [name for name in first if first[name] not in send.EXPECTED_LABELS[name]] == []


def test_a_recompressed_photo_is_far_closer_than_any_other(answers):
    unit = {name: embedding / np.linalg.norm(embedding) for name, (embedding, _) in answers.items()}
    similar = {(a, b): float(unit[a] @ unit[b]) for a in unit for b in unit if a < b}
    duplicate = similar.pop((photos.DUPLICATE, photos.ORIGINAL))
    assert duplicate > 0.9
    assert max(similar.values()) < duplicate - 0.5


def test_a_photo_alone_gets_the_same_answer_as_in_a_batch(efficientnet, answers, tmp_path):
    path = next(path for path in photos.make(tmp_path) if path.name == "coffee.jpg")
    embedding, logits = run(efficientnet, ["embedding", "logits"], preprocess(path)[None])
    np.testing.assert_allclose(embedding[0], answers["coffee.jpg"][0], atol=1e-4)
    np.testing.assert_allclose(logits[0], answers["coffee.jpg"][1], atol=1e-4)


def test_the_padding_is_tensorflows():
    """At stride 2 an even side is padded at its end alone; symmetric padding would shift the whole image."""
    model = efficientnet_lite0.build(efficientnet_lite0.weights())
    pads = {node.name: list(a.ints) for node in model.graph.node for a in node.attribute if a.name == "pads"}
    assert pads["_conv_stem"] == [0, 0, 1, 1]
    assert pads["_blocks.3._depthwise_conv"] == [1, 1, 2, 2]  # kernel 5, stride 2
    assert pads["_blocks.0._depthwise_conv"] == [1, 1, 1, 1]  # kernel 3, stride 1


def test_there_is_one_name_a_class():
    assert len(LABELS) == len(set(LABELS)) == 1000
    assert [LABELS[index] for index in (0, 207, 504, 999)] == ["tench", "golden retriever", "coffee mug", "toilet tissue"]


# --- CLIP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [clip_vision.TINY, clip_vision.Shape(layers=3, width=48, heads=4, patch=8, image=32, embedding=20)],
    ids=["tiny", "odd"],
)
def test_clip_computes_what_plain_numpy_computes(shape, tmp_path):
    weights = clip_vision.random_weights(shape, seed=1)
    graph.save(clip_vision.build(shape, weights), tmp_path / "model.onnx")
    images = np.random.default_rng(2).standard_normal((3, 3, shape.image, shape.image), np.float32)
    (answer,) = run(tmp_path / "model.onnx", ["image_embeds"], images)
    expected = clip_in_numpy(shape, {name: values.astype(np.float64) for name, values in weights.items()}, images)
    # Random images look alike to random weights, so their differences are compared and not only their directions.
    assert answer.shape == (3, shape.embedding)
    np.testing.assert_allclose(answer, expected, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_the_true_clip_has_the_published_size():
    names = clip_vision.random_weights(clip_vision.Shape(), seed=0)
    assert sum(values.size for values in names.values()) == 87_849_216


def test_external_data_changes_nothing(tmp_path):
    weights = clip_vision.random_weights(clip_vision.TINY, seed=0)
    model = clip_vision.build(clip_vision.TINY, weights)
    graph.save(model, tmp_path / "one" / "model.onnx")
    graph.save(model, tmp_path / "two" / "model.onnx", external_data=True)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "two").iterdir()}
    assert sizes["model.onnx"] < 100_000 < 1_000_000 < sizes["model.onnx.data"]
    images = np.ones((1, 3, 224, 224), np.float32)
    (one,), (two,) = (run(tmp_path / folder / "model.onnx", ["image_embeds"], images) for folder in ("one", "two"))
    np.testing.assert_array_equal(one, two)


def test_sizes_that_do_not_fit_are_refused():
    command = [sys.executable, HERE / "clip_vision.py", "--width", "100", "--heads", "3", "--out", os.devnull]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "multiple of the number of heads" in refused.stderr


# --- Both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [["efficientnet_lite0.py"], ["clip_vision.py", "--tiny"]], ids=lambda script: script[0])
def test_two_runs_write_the_same_bytes(script, tmp_path):
    digests = set()
    for name in ("first.onnx", "second.onnx"):
        subprocess.run([sys.executable, HERE / script[0], *script[1:], "--out", tmp_path / name], check=True)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


# --- The reader of old PyTorch files --------------------------------------------------------------------------------


def test_tensors_come_back_with_their_shapes_strides_and_types():
    values = np.arange(12, dtype=np.float32)
    data = old_pytorch_file(
        {
            "whole": ("FloatStorage", "a", values, 0, (3, 4), (4, 1)),
            "turned": ("FloatStorage", "a", values, 0, (4, 3), (1, 4)),
            "tail": ("FloatStorage", "a", values, 10, (2,), (1,)),
            "count": ("LongStorage", "b", np.array([7], np.int64), 0, (), ()),
            "empty": ("FloatStorage", "c", np.array([], np.float32), 0, (0, 4), (4, 1)),
        }
    )
    tensors = legacy_pth.read(data)
    np.testing.assert_array_equal(tensors["whole"], values.reshape(3, 4))
    np.testing.assert_array_equal(tensors["turned"], values.reshape(3, 4).T)
    np.testing.assert_array_equal(tensors["tail"], [10, 11])
    assert tensors["count"] == 7 and tensors["count"].dtype == np.int64
    assert tensors["empty"].shape == (0, 4)


def test_a_file_that_names_a_function_is_refused_and_the_function_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    for hostile in (pickle.dumps(Attack()), old_pytorch_file({}, instead=Attack())):
        with pytest.raises(legacy_pth.FormatError, match="mkdir"):
            legacy_pth.read(hostile)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused():
    values = np.arange(4, dtype=np.float32)
    good = old_pytorch_file({"a": ("FloatStorage", "a", values, 0, (4,), (1,))})
    with pytest.raises(legacy_pth.FormatError, match="cut short"):
        legacy_pth.read(good[:-1])
    with pytest.raises(legacy_pth.FormatError, match="can't be read"):
        legacy_pth.read(good[:60])
    with pytest.raises(legacy_pth.FormatError, match="can't be read"):
        legacy_pth.read(b"PK\x03\x04 a zip file")
    with pytest.raises(legacy_pth.FormatError, match="magic number"):
        legacy_pth.read(pickle.dumps(1) * 5)
    for offset, shape, strides in ((1, (4,), (1,)), (0, (2, 2), (4, 1)), (0, (2,), (-1,))):
        with pytest.raises(legacy_pth.FormatError, match="outside its storage"):
            legacy_pth.read(old_pytorch_file({"a": ("FloatStorage", "a", values, offset, shape, strides)}))


def test_the_real_weights_are_complete():
    tensors = efficientnet_lite0.weights()
    assert len(tensors) == 296
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(values).all() for values in tensors.values())


# --- Helpers --------------------------------------------------------------------------------------------------------


def run(path: Path, outputs: list[str], batch: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"pixel_values": batch})


def preprocess(path: Path) -> np.ndarray:
    """The server's preset ImageNet, with Pillow: short side to 256, the middle 224 x 224, normalised."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    image = image.resize([256 * side // short for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    pixels = (pixels - efficientnet_lite0.IMAGENET_MEAN) / efficientnet_lite0.IMAGENET_DEVIATION
    return pixels.transpose(2, 0, 1).astype(np.float32)


def clip_in_numpy(shape: clip_vision.Shape, w: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """CLIP's image tower once more, from its description and in double precision."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x, name):
        count = x.shape[1]
        q, k, v = (
            linear(x, f"{name}.{part}_proj").reshape(-1, count, shape.heads, shape.head_width).swapaxes(1, 2)
            for part in "qkv"
        )
        scores = q @ k.swapaxes(2, 3) / np.sqrt(shape.head_width)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        return linear(mixed.swapaxes(1, 2).reshape(-1, count, shape.width), f"{name}.out_proj")

    def mlp(x, name):
        x = linear(x, f"{name}.fc1")
        return linear(x / (1 + np.exp(-1.702 * x)), f"{name}.fc2")

    batch, side = len(images), shape.image // shape.patch
    cut = images.reshape(batch, 3, side, shape.patch, side, shape.patch).transpose(0, 2, 4, 1, 3, 5)
    tokens = cut.reshape(batch, shape.patches, -1) @ w["embeddings.patch_embedding.weight"].reshape(shape.width, -1).T
    first = np.broadcast_to(w["embeddings.class_embedding"], (batch, 1, shape.width))
    x = norm(np.concatenate([first, tokens], axis=1) + w["embeddings.position_embedding.weight"], "pre_layrnorm")
    for layer in range(shape.layers):
        prefix = f"encoder.layers.{layer}"
        x = x + attention(norm(x, f"{prefix}.layer_norm1"), f"{prefix}.self_attn")
        x = x + mlp(norm(x, f"{prefix}.layer_norm2"), f"{prefix}.mlp")
    return norm(x[:, 0], "post_layernorm") @ w["visual_projection.weight"].T


def old_pytorch_file(tensors: dict[str, tuple], instead: object = None) -> bytes:
    """Writes the old format without torch. A tensor: storage type, key, values, offset, shape, strides."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = _named_function("torch._utils", "_rebuild_tensor_v2")
    for name in legacy_pth.STORAGE_TYPES:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    class Reference:
        def __init__(self, pid):
            self.pid = pid

    class Tensor:
        def __init__(self, storage, offset, shape, strides):
            self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

        def __reduce__(self):
            return utils._rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Reference) else None

    def dump(value):
        Pickler(file, protocol=2).dump(value)

    storages = {key: (kind, values) for kind, key, values, *_ in tensors.values()}
    references = {
        key: Reference(("storage", getattr(torch, kind), key, "cpu", values.size, None))
        for key, (kind, values) in storages.items()
    }
    state = collections.OrderedDict((name, Tensor(references[t[1]], *t[3:])) for name, t in tensors.items())
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        for value in (legacy_pth.MAGIC_NUMBER, legacy_pth.PROTOCOL_VERSION, {"little_endian": True}, instead or state):
            dump(value)
    dump(list(storages))
    for _, values in storages.values():
        file.write(struct.pack("<q", values.size) + values.tobytes())
    return file.getvalue()


def _named_function(module: str, name: str):
    def function(*_):
        raise AssertionError("only its name is used")

    function.__module__, function.__name__, function.__qualname__ = module, name, name
    return function
