"""Checks a built server with NVIDIA's own HTTP client, against the fixtures' models on the real ONNX Runtime.

usage: tests/tritonclient, which makes the environment; or, with one at hand,
       FLOTILLA_ORT_LIBRARY=... python tritonclient_check.py path/to/flotilla-server
"""

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
IMAGES = FIXTURES / "images"
LIMIT_SECONDS = 60


def main(server):
    checks = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
    with running(server, "tiny-image", {"preset": "Clip"}) as images, running(server, "types", {"preset": "None"}) as types:
        for check in checks:
            check(images, types)
            print(f"ok {check.__name__.removeprefix('check_')}")
    print(f"{len(checks)} checks passed")


@contextlib.contextmanager
def running(server, model, preprocessing):
    """The address of a ready server."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "version": 1,
            "model": {"name": model, "path": str(FIXTURES / model), "preprocessing": preprocessing},
            "executionProvider": "Cpu",
            "batching": {"maxBatchSize": 8},
            "http": {"port": 0},
            "metrics": {"port": 0},
            "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
        }
        file = pathlib.Path(folder, "settings.json")
        file.write_text(json.dumps(settings))
        log = pathlib.Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen([server, "--settings", str(file)], stderr=output)
        try:
            yield ready_address(process, log)
        finally:
            process.terminate()
            assert process.wait(LIMIT_SECONDS) == 0, log.read_text()


def ready_address(process, log):
    address = None
    for _ in range(LIMIT_SECONDS * 20):
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            fields = json.loads(line)["fields"]
            if fields["message"] == "listening":
                address = "127.0.0.1:" + fields["http"].rsplit(":", 1)[1]
        if address and triton.InferenceServerClient(address).is_server_ready():
            return address
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


def files(*names):
    return np.array([(IMAGES / name).read_bytes() for name in names], dtype=object)


def check_health_and_metadata(images, _types):
    client = triton.InferenceServerClient(images)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny-image", "1")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("tiny-image")
    assert metadata["inputs"] == [{"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]
    assert client.get_model_config("tiny-image")["max_batch_size"] == 8


def check_tensors_binary_and_json(images, _types):
    client = triton.InferenceServerClient(images)
    pixels = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    results = []
    for binary in (True, False):
        tensor = triton.InferInput("pixel_values", list(pixels.shape), "FP32")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        outputs = [triton.InferRequestedOutput("means", binary_data=binary)]
        result = client.infer("tiny-image", [tensor], outputs=outputs, request_id="seven")
        assert result.get_response()["id"] == "seven"
        assert ("parameters" in result.get_output("means")) == binary
        results.append(result.as_numpy("means"))
    np.testing.assert_allclose(results[0], pixels.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)


def check_images_as_bytes(images, _types):
    client = triton.InferenceServerClient(images)
    names = ["wide.png", "photo.jpg", "lossless.webp"]
    answers = []
    for shape in ([3], [3, 1]):
        tensor = triton.InferInput("pixel_values", shape, "BYTES")
        tensor.set_data_from_numpy(files(*names).reshape(shape))
        answers.append(client.infer("tiny-image", [tensor]).as_numpy("embedding"))
    assert answers[0].shape == (3, 4)
    np.testing.assert_array_equal(answers[0], answers[1])
    # The first and the last are the same picture in two lossless formats.
    np.testing.assert_array_equal(answers[0][0], answers[0][2])


def check_every_type(_images, types):
    client = triton.InferenceServerClient(types)
    values = {
        "BOOL": np.array([[True, False]]),
        "UINT8": np.array([[0, 255]], np.uint8),
        "UINT16": np.array([[0, 65535]], np.uint16),
        "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
        "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
        "INT8": np.array([[-128, 127]], np.int8),
        "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
        "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
        "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
        "FP16": np.array([[0.5, -65504]], np.float16),
        "FP32": np.array([[1e-38, -1e38]], np.float32),
        "FP64": np.array([[1e-300, -1e300]], np.float64),
        "BYTES": np.array([["née".encode(), b""]], dtype=object),
    }
    tensors = []
    for name, value in values.items():
        tensor = triton.InferInput(f"in_{name}", [1, 2], name)
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    result = client.infer("types", tensors)
    for name, value in values.items():
        np.testing.assert_array_equal(result.as_numpy(f"out_{name}"), value, err_msg=name)


def check_errors_reach_the_client(images, _types):
    client = triton.InferenceServerClient(images)
    tensor = triton.InferInput("pixel_values", [1, 3, 8, 8], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3, 8, 8), np.float32))
    for call, part in [
        (lambda: client.infer("tiny-image", [tensor]), "unexpected shape for input 'pixel_values'"),
        (lambda: client.infer("nobody", [tensor]), "Request for unknown model: 'nobody' is not found"),
        (lambda: client.get_model_metadata("tiny-image", "9"), "version 9 is not found"),
    ]:
        try:
            call()
        except InferenceServerException as error:
            assert part in error.message(), error
            assert error.status() == "400", error
        else:
            raise AssertionError(f"no error that says {part}")


def check_statistics_count(images, _types):
    client = triton.InferenceServerClient(images)
    count = lambda: client.get_inference_statistics("tiny-image")["model_stats"][0]["inference_count"]
    before = count()
    tensor = triton.InferInput("pixel_values", [2], "BYTES")
    tensor.set_data_from_numpy(files("wide.png", "high.png"))
    client.infer("tiny-image", [tensor])
    assert count() == before + 2


def check_many_at_once(images, _types):
    async def run():
        tensor = triton_aio.InferInput("pixel_values", [1], "BYTES")
        tensor.set_data_from_numpy(files("photo.jpg"))
        async with triton_aio.InferenceServerClient(images) as client:
            results = await asyncio.gather(*(client.infer("tiny-image", [tensor]) for _ in range(64)))
        first = results[0].as_numpy("embedding")
        # The size of a batch may change a sum's last bits, nothing more.
        for result in results:
            np.testing.assert_allclose(result.as_numpy("embedding"), first, rtol=1e-4, atol=1e-5)

    asyncio.run(run())


main(sys.argv[1])
