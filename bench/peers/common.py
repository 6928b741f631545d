"""What all peers share: the session, its options, and what becomes of a request's bytes. Each server calls this and no more, so
that what is compared is the servers.

The harness says what is served in environment variables:

    BENCH_MODEL      the .onnx file; one input and one output, both float32 with the batch first
    BENCH_KIND       jpeg: requests are images, preprocessed as CLIP's are; tensor: they are float32 values
    BENCH_THREADS    threads that one execution uses
    BENCH_MAX_BATCH  the most rows in one execution
    BENCH_PORT, BENCH_GRPC_PORT, BENCH_METRICS_PORT
"""

import concurrent.futures
import io
import os

import numpy as np
import onnxruntime
from PIL import Image

KIND = os.environ["BENCH_KIND"]
THREADS = int(os.environ["BENCH_THREADS"])
MAX_BATCH = int(os.environ["BENCH_MAX_BATCH"])
PORT = int(os.environ.get("BENCH_PORT", 0))
GRPC_PORT = int(os.environ.get("BENCH_GRPC_PORT", 0))
METRICS_PORT = int(os.environ.get("BENCH_METRICS_PORT", 0))
SIZE = 224
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
# One dividing and one multiplying pass over the pixels instead of four.
SCALE, SHIFT = 1 / (255 * DEVIATION), MEAN / DEVIATION


class Model:
    """The session, with the options that flotilla-server has: no thread spins while it waits."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        (values,) = self.session.get_inputs()
        self.input, self.shape, self.output = values.name, values.shape[1:], self.session.get_outputs()[0].name
        self.decoders = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def rows(self, body):
        """The rows of one request: of an image, or of values."""
        return preprocess(body) if KIND == "jpeg" else np.frombuffer(body, np.float32).reshape(-1, *self.shape)

    def all_rows(self, bodies):
        """The rows of several requests; images are decoded side by side, which Pillow and NumPy allow."""
        rows = list(
            self.decoders.map(self.rows, bodies) if KIND == "jpeg" and len(bodies) > 1 else map(self.rows, bodies)
        )
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def run(self, rows):
        """The rows of the output."""
        return self.session.run([self.output], {self.input: rows})[0]


def preprocess(data):
    """As CLIP's own preprocessing: Pillow's bicubic filter to a short side of 224, the middle, mean and deviation."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    new = (SIZE * width // height, SIZE) if height <= width else (SIZE, SIZE * height // width)
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (new[0] - SIZE) // 2, (new[1] - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))
    # Planes before floats: the copy that reorders is then of bytes.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return (planes * SCALE[:, None, None] - SHIFT[:, None, None])[None]
