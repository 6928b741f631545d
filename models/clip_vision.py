"""Writes the image tower of CLIP as an ONNX model with random weights, at its true size or smaller.

Usage: python clip_vision.py --out model.onnx                    ViT-B/32: 12 layers, width 768, 351 MB
       python clip_vision.py --tiny --out model.onnx             the same graph in 1 MB, for tests
       python clip_vision.py --layers 4 --width 256 --heads 4 --out model.onnx

    pixel_values  float32 [batch, 3, image, image]   an image, normalised as CLIP's preprocessing does
    image_embeds  float32 [batch, embedding]         the embedding, not brought to length one

It costs what the trained model costs, so it serves for measuring; what it answers means nothing. The weights have the
names and the layout of the trained model's in the `transformers` library, and depend on the seed alone.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import onnx

import graph

EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of everything. The defaults are ViT-B/32's."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    patch: int = 32
    image: int = 224
    embedding: int = 512

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError("every size must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"the width ({self.width}) must be a multiple of the number of heads ({self.heads})")
        if self.image % self.patch:
            raise ValueError(f"the image ({self.image}) must be a multiple of the patch ({self.patch})")

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def head_width(self) -> int:
        return self.width // self.heads


TRUE = Shape()
TINY = Shape(layers=2, width=64, heads=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("--external-data", action="store_true", help="put the weights into a second file beside it")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    parser.add_argument("--tiny", action="store_true", help="start from the sizes for tests instead of ViT-B/32's")
    for field in dataclasses.fields(Shape):
        parser.add_argument(f"--{field.name}", type=int, metavar="N", help=f"default {field.default}")
    arguments = parser.parse_args()

    chosen = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Shape)}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    try:
        shape = dataclasses.replace(TINY if arguments.tiny else TRUE, **chosen)
    except ValueError as error:
        parser.error(str(error))
    graph.save(build(shape, random_weights(shape, arguments.seed)), arguments.out, arguments.external_data)


def random_weights(shape: Shape, seed: int) -> dict[str, np.ndarray]:
    """Weights at the scale that CLIP's training starts from, so that no value overflows or fades through the layers."""
    random = np.random.default_rng(seed)
    width = shape.width
    tensors: dict[str, np.ndarray] = {}

    def normal(name: str, *size: int, deviation: float) -> None:
        tensors[name] = random.standard_normal(size, np.float32) * np.float32(deviation)

    def linear(name: str, size_out: int, size_in: int, deviation: float) -> None:
        normal(f"{name}.weight", size_out, size_in, deviation=deviation)
        normal(f"{name}.bias", size_out, deviation=0.02)

    def norm(name: str) -> None:
        normal(f"{name}.weight", width, deviation=0.1)
        tensors[f"{name}.weight"] += np.float32(1)
        normal(f"{name}.bias", width, deviation=0.02)

    attention, residual = width**-0.5, width**-0.5 * (2 * shape.layers) ** -0.5
    normal("embeddings.class_embedding", width, deviation=attention)
    normal("embeddings.patch_embedding.weight", width, 3, shape.patch, shape.patch, deviation=0.02)
    normal("embeddings.position_embedding.weight", shape.patches + 1, width, deviation=attention)
    norm("pre_layrnorm")  # spelt like this in the trained model too
    for layer in range(shape.layers):
        prefix = f"encoder.layers.{layer}"
        norm(f"{prefix}.layer_norm1")
        for part in "qkv":
            linear(f"{prefix}.self_attn.{part}_proj", width, width, attention)
        linear(f"{prefix}.self_attn.out_proj", width, width, residual)
        norm(f"{prefix}.layer_norm2")
        linear(f"{prefix}.mlp.fc1", 4 * width, width, (2 * width) ** -0.5)
        linear(f"{prefix}.mlp.fc2", width, 4 * width, residual)
    norm("post_layernorm")
    normal("visual_projection.weight", shape.embedding, width, deviation=attention)
    return tensors


def build(shape: Shape, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The tower as an ONNX model."""
    tower = _Tower(shape, tensors)
    value = tower.embed("pixel_values")
    value = tower.norm(value, "pre_layrnorm")
    for layer in range(shape.layers):
        prefix = f"encoder.layers.{layer}"
        attended = tower.attend(tower.norm(value, f"{prefix}.layer_norm1"), f"{prefix}.self_attn")
        value = tower.graph.add("Add", value, attended, name=f"{prefix}.residual1")
        widened = tower.widen(tower.norm(value, f"{prefix}.layer_norm2"), f"{prefix}.mlp")
        value = tower.graph.add("Add", value, widened, name=f"{prefix}.residual2")
    tower.project(value)
    return tower.graph.model(
        {"pixel_values": ["batch", 3, shape.image, shape.image]},
        {"image_embeds": ["batch", shape.embedding]},
    )


class _Tower:
    """The parts of a vision transformer."""

    def __init__(self, shape: Shape, tensors: dict[str, np.ndarray]) -> None:
        self.shape = shape
        self.tensors = tensors
        self.graph = graph.Graph("clip-vision")

    def embed(self, pixels: str) -> str:
        """One token a patch, a class token before them, and to each what says where it is."""
        shape, add = self.shape, self.graph.add
        kernel = self.graph.weight("patch_embedding", self.tensors["embeddings.patch_embedding.weight"])
        value = add("Conv", pixels, kernel, name="patches", kernel_shape=[shape.patch] * 2, strides=[shape.patch] * 2)
        value = add("Reshape", value, self._integers("patches.shape", 0, shape.width, -1), name="patches.flat")
        value = add("Transpose", value, name="tokens", perm=[0, 2, 1])
        # The class token is the same for all images: a row of zeros in front, which the next addition fills.
        value = add("Pad", value, self._integers("class.pads", 0, 1, 0, 0, 0, 0), name="class")
        position = self.tensors["embeddings.position_embedding.weight"].copy()
        position[0] += self.tensors["embeddings.class_embedding"]
        return add("Add", value, self.graph.weight("position_embedding", position), name="embedded")

    def attend(self, value: str, name: str) -> str:
        """Self-attention: every token asks all tokens, in several heads."""
        shape, add = self.shape, self.graph.add
        split = self._integers("heads.split", 0, -1, shape.heads, shape.head_width)
        heads = {}
        # Keys are turned so that a plain product of queries and keys follows.
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            projected = self.linear(value, f"{name}.{part}_proj")
            projected = add("Reshape", projected, split, name=f"{name}.{part}_split")
            heads[part] = add("Transpose", projected, name=f"{name}.{part}", perm=order)
        queries = add("Mul", heads["q"], self._number("heads.scale", shape.head_width**-0.5), name=f"{name}.scaled")
        scores = add("MatMul", queries, heads["k"], name=f"{name}.scores")
        scores = add("Softmax", scores, name=f"{name}.softmax", axis=-1)
        value = add("MatMul", scores, heads["v"], name=f"{name}.mixed")
        value = add("Transpose", value, name=f"{name}.turned", perm=[0, 2, 1, 3])
        value = add("Reshape", value, self._integers("heads.join", 0, -1, shape.width), name=f"{name}.joined")
        return self.linear(value, f"{name}.out_proj")

    def widen(self, value: str, name: str) -> str:
        """Two layers with CLIP's quick GELU between them: x times sigmoid(1.702 x)."""
        value = self.linear(value, f"{name}.fc1")
        gate = self.graph.add("Mul", value, self._number("gelu.factor", 1.702), name=f"{name}.steep")
        gate = self.graph.add("Sigmoid", gate, name=f"{name}.gate")
        return self.linear(self.graph.add("Mul", value, gate, name=f"{name}.gelu"), f"{name}.fc2")

    def project(self, value: str) -> None:
        """The class token alone, brought to the size that images and texts share."""
        value = self.graph.add("Gather", value, self._constant("class.index", np.array(0, np.int64)), name="pooled", axis=1)
        value = self.norm(value, "post_layernorm")
        kernel = self.graph.weight("visual_projection", self.tensors["visual_projection.weight"].T)
        self.graph.add("MatMul", value, kernel, name="image_embeds")

    def norm(self, value: str, name: str) -> str:
        gain = self.graph.weight(f"{name}.weight", self.tensors[f"{name}.weight"])
        offset = self.graph.weight(f"{name}.bias", self.tensors[f"{name}.bias"])
        return self.graph.add("LayerNormalization", value, gain, offset, name=name, axis=-1, epsilon=EPSILON)

    def linear(self, value: str, name: str) -> str:
        kernel = self.graph.weight(f"{name}.weight", self.tensors[f"{name}.weight"].T)
        bias = self.graph.weight(f"{name}.bias", self.tensors[f"{name}.bias"])
        value = self.graph.add("MatMul", value, kernel, name=f"{name}.product")
        return self.graph.add("Add", value, bias, name=name)

    def _integers(self, name: str, *values: int) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _number(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, np.float32))

    def _constant(self, name: str, values: np.ndarray) -> str:
        return name if name in self.graph.weights else self.graph.weight(name, values)


if __name__ == "__main__":
    main()
