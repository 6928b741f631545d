"""What is sent and what has to come back: models, images, values, and the answers of a bare session."""

import dataclasses
import io
import os
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

# Bodies that are sent in turn, so that a row that went to the wrong request is noticed.
SAMPLES = 4


@dataclasses.dataclass
class Sample:
    """One request's rows."""

    images: list
    values: np.ndarray
    expected: np.ndarray


@dataclasses.dataclass
class Materials:
    """One model with its requests."""

    name: str
    # The file that a bare session and the peers load, in the layout that model servers want: FOLDER/1/model.onnx.
    folder: pathlib.Path
    input: str
    input_dims: list
    output_dims: list
    tolerance: float
    made: list

    @property
    def file(self):
        return self.folder / "1" / "model.onnx"

    def samples(self, kind):
        return [sample for sample in self.made if kind != "jpeg" or sample.images]

    def of(self, rows):
        """The same with requests of so many rows each."""
        made = []
        for first in range(SAMPLES):
            chosen = [self.made[(first + index) % SAMPLES] for index in range(rows)]
            join = lambda name: np.concatenate([getattr(sample, name) for sample in chosen])
            made.append(
                Sample([image for sample in chosen for image in sample.images], join("values"), join("expected"))
            )
        return dataclasses.replace(self, made=made)


def identity(folder):
    """A model of no cost: 16 values in and out."""
    random = np.random.default_rng(1)
    made = []
    for _ in range(SAMPLES):
        values = random.standard_normal((1, 16), np.float32)
        made.append(Sample([], values, values))
    write(folder, [helper.make_node("Identity", ["input"], ["output"])], ["batch", 16], ["batch", 16])
    return Materials("identity", folder, "input", [16], [16], 1e-6, made)


def mean(folder, photos):
    """An image of almost no cost: the mean of its values, so that what is left is the way to the model."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    node = helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0)
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1])
    nodes = [node, helper.make_node("Reshape", ["mean", "shape"], ["output"])]
    write(folder, nodes, ["batch", 3, 224, 224], ["batch", 1], [axes, shape])
    return with_images(Materials("mean", folder, "input", [3, 224, 224], [1], 0, []), photos)


def clip(folder, photos):
    """CLIP's image tower at its true size, of models/build."""
    return with_images(Materials("clip", folder, "pixel_values", [3, 224, 224], [512], 0, []), photos)


def with_images(materials, photos):
    """The answers are those of a bare session on Pillow's pixels."""
    common, model = bare(materials.file)
    pixels = [common.preprocess(photo) for photo in photos]
    answers = [model.run(one) for one in pixels]
    # Far less than what two requests' answers differ by, far more than what the order of additions does.
    apart = min(np.abs(a - b).max() for index, a in enumerate(answers) for b in answers[:index])
    alone, together = np.concatenate(answers), model.run(np.concatenate(pixels))
    materials.tolerance = float(apart) / 10
    if np.abs(alone - together).max() > materials.tolerance / 2:
        raise ValueError(
            f"{materials.name}: a batch's answers are as far from single ones as two images' are from each other"
        )
    materials.made = [Sample([photo], one, answer) for photo, one, answer in zip(photos, pixels, answers)]
    return materials


def bare(file, threads=0):
    """The peers' own session and preprocessing."""
    os.environ.update(
        BENCH_MODEL=str(file), BENCH_KIND="jpeg", BENCH_THREADS=str(threads or os.cpu_count()), BENCH_MAX_BATCH="8"
    )
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "peers"))
    import common

    return common, common.Model()


def write(folder, nodes, inputs, outputs, initializers=()):
    values = lambda name, dims: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "g", [values("input", inputs)], [values("output", outputs)], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "1" / "model.onnx")


def photo(seed, width=640, height=480):
    """A JPEG with a photo's spectrum (power falls with frequency) and a photo's size, about 100 KB at 640x480."""
    random = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequencies[0, 0] = 1

    def plane():
        phases = np.exp(2j * np.pi * random.random(frequencies.shape))
        values = np.fft.irfft2(phases / frequencies, (height, width))
        return values / values.std()

    # Colours differ less than brightness does, as in photos.
    brightness = plane()
    pixels = np.stack([100 + 8 * seed + 40 * brightness + 10 * plane() for _ in range(3)], axis=2)
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=75)
    return out.getvalue()
