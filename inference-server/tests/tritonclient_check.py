"""Checks a built server with NVIDIA's own clients, against the fixtures' models on the real ONNX Runtime.

usage: tests/tritonclient, which makes the environment; or, with one at hand,
       FLOTILLA_ORT_LIBRARY=... python tritonclient_check.py path/to/flotilla-server
"""

import asyncio
import contextlib
import http.client
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import time
import zlib
from types import SimpleNamespace

import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

TESTS = pathlib.Path(__file__).parent
FIXTURES = TESTS / "fixtures"
IMAGES = FIXTURES / "images"
LIMIT_SECONDS = 60


def main(server):
    global SERVER
    SERVER = server
    checks = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
    model = lambda name, preset: {"name": name, "path": str(FIXTURES / name), "preprocessing": {"preset": preset}}
    rest = {"batching": {"maxBatchSize": 8}}
    with running(model=model("tiny-image", "Clip"), **rest) as images, running(model=model("types", "None"), **rest) as types:
        for check in checks:
            start = time.monotonic()
            check(images, types)
            print(f"ok {check.__name__.removeprefix('check_')} ({time.monotonic() - start:.1f} s)")
    print(f"{len(checks)} checks passed")


@contextlib.contextmanager
def running(**settings):
    """A ready server: its addresses and its process."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "version": 1,
            **settings,
            "executionProvider": "Cpu",
            "http": {"port": 0},
            "grpc": {"port": 0},
            "metrics": {"port": 0},
            "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
        }
        file = pathlib.Path(folder, "settings.json")
        file.write_text(json.dumps(settings))
        log = pathlib.Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen([SERVER, "--settings", str(file)], stderr=output)
        try:
            yield ready_server(process, log)
        finally:
            process.terminate()
            assert process.wait(LIMIT_SECONDS) == 0, log.read_text()


def ready_server(process, log):
    server = None
    for _ in range(LIMIT_SECONDS * 20):
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            fields = json.loads(line)["fields"]
            if fields["message"] == "listening":
                address = lambda name: "127.0.0.1:" + fields[name].rsplit(":", 1)[1]
                server = SimpleNamespace(http=address("http"), grpc=address("grpc"), pid=process.pid)
        if server and triton.InferenceServerClient(server.http).is_server_ready():
            return server
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


def clients(server):
    """Both clients, with their module: they have the same methods."""
    yield triton, triton.InferenceServerClient(server.http)
    yield triton_grpc, triton_grpc.InferenceServerClient(server.grpc)


async def with_aio_clients(server, use):
    for module, address in ((triton_aio, server.http), (triton_grpc_aio, server.grpc)):
        async with module.InferenceServerClient(address) as client:
            await use(module, client)


def files(*names):
    return np.array([(IMAGES / name).read_bytes() for name in names], dtype=object)


def image_input(module, *names):
    tensor = module.InferInput("pixel_values", [len(names)], "BYTES")
    tensor.set_data_from_numpy(files(*names))
    return [tensor]


def pixel_input(module, pixels):
    tensor = module.InferInput("pixel_values", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels)
    return [tensor]


PIXELS = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
MEANS = PIXELS.mean(axis=(2, 3))


def check_descriptors_are_triton_s(_images, _types):
    """The .proto files, compiled by protoc, against what the client carries: every name, number, type and call."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, "ours")
        include = TESTS.parent / "proto"
        names = ["model_config.proto", "grpc_service.proto"]
        assert protoc.main(["protoc", f"-I{include}", f"--descriptor_set_out={output}", *names]) == 0
        ours = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    theirs = {}
    for module in (model_config_pb2, service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        theirs |= facts(file)
    found = {}
    for file in ours.file:
        found |= facts(file)
    assert len(found) > 500, len(found)
    assert found == theirs, {key: (found.get(key), theirs.get(key)) for key in found.keys() ^ theirs.keys()}


def facts(file):
    """Everything that travels or that a client calls by name."""
    found = {}

    def enum(path, value):
        for entry in value.value:
            found[f"{path}.{value.name}.{entry.name}"] = entry.number

    def message(path, value):
        path = f"{path}.{value.name}"
        found[path] = "message"
        oneofs = [oneof.name for oneof in value.oneof_decl]
        for field in value.field:
            oneof = oneofs[field.oneof_index] if field.HasField("oneof_index") else None
            found[f"{path}.{field.name}"] = (field.number, field.type, field.label, field.type_name, oneof)
        for nested in value.nested_type:
            message(path, nested)
        for nested in value.enum_type:
            enum(path, nested)

    for value in file.message_type:
        message(f".{file.package}", value)
    for value in file.enum_type:
        enum(f".{file.package}", value)
    for service in file.service:
        for call in service.method:
            streams = (call.client_streaming, call.server_streaming)
            found[f"{file.package}.{service.name}/{call.name}"] = (call.input_type, call.output_type, streams)
    return found


def check_health_and_metadata(images, _types):
    for module, client in clients(images):
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny-image", "1")
        as_json = {} if module is triton else {"as_json": True}
        about = client.get_server_metadata(**as_json)
        assert {"binary_tensor_data", "statistics"} <= set(about["extensions"]), about
        metadata = client.get_model_metadata("tiny-image", "1", **as_json)
        [tensor] = metadata["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("pixel_values", "FP32")
        assert [int(size) for size in tensor["shape"]] == [-1, 3, 32, 32]
        config = client.get_model_config("tiny-image", **as_json)
        config = config.get("config", config)
        assert config["max_batch_size"] == 8
        assert [int(size) for size in config["input"][0]["dims"]] == [3, 32, 32]
        index = client.get_model_repository_index(**as_json)
        [model] = index["models"] if module is triton_grpc else index
        assert (model["name"], model["version"], model["state"]) == ("tiny-image", "1", "READY")


def check_tensors_binary_and_json(images, _types):
    client = triton.InferenceServerClient(images.http)
    for binary in (True, False):
        tensor = triton.InferInput("pixel_values", list(PIXELS.shape), "FP32")
        tensor.set_data_from_numpy(PIXELS, binary_data=binary)
        outputs = [triton.InferRequestedOutput("means", binary_data=binary)]
        result = client.infer("tiny-image", [tensor], outputs=outputs, request_id="seven")
        assert result.get_response()["id"] == "seven"
        assert ("parameters" in result.get_output("means")) == binary
        np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)


def check_both_clients_and_both_their_asyncio_variants_infer(images, _types):
    for module, client in clients(images):
        outputs = [module.InferRequestedOutput("means")]
        result = client.infer("tiny-image", pixel_input(module, PIXELS), "1", outputs=outputs, request_id="a")
        np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)
        assert result.as_numpy("embedding") is None, "only what was asked for"

    async def use(module, client):
        assert await client.is_server_live() and await client.is_server_ready()
        assert (await client.get_server_metadata()) and (await client.get_model_metadata("tiny-image"))
        assert (await client.get_model_config("tiny-image")) and (await client.get_inference_statistics("tiny-image"))
        results = await asyncio.gather(*(client.infer("tiny-image", pixel_input(module, PIXELS)) for _ in range(32)))
        for result in results:
            np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)

    asyncio.run(with_aio_clients(images, use))


def check_requests_without_waiting(images, _types):
    client = triton.InferenceServerClient(images.http, concurrency=4)
    requests = [client.async_infer("tiny-image", pixel_input(triton, PIXELS)) for _ in range(16)]
    for request in requests:
        np.testing.assert_allclose(request.get_result().as_numpy("means"), MEANS, atol=1e-6)
    client = triton_grpc.InferenceServerClient(images.grpc)
    answers = queue.Queue()
    for _ in range(16):
        client.async_infer("tiny-image", pixel_input(triton_grpc, PIXELS), lambda result, error: answers.put((result, error)))
    for _ in range(16):
        result, error = answers.get(timeout=LIMIT_SECONDS)
        assert error is None, error
        np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)


def check_streams(images, _types):
    with triton_grpc.InferenceServerClient(images.grpc) as client:
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(20):
            model = "nobody" if number == 5 else "tiny-image"
            client.async_stream_infer(model, pixel_input(triton_grpc, PIXELS), request_id=str(number))
        for number in range(20):
            result, error = answers.get(timeout=LIMIT_SECONDS)
            if number == 5:
                assert "'nobody' is not found" in error.message(), error
            else:
                assert result.get_response().id == str(number), "answers come in the order of the requests"
                np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)
        client.stop_stream()

    async def use():
        async def requests():
            for number in range(5):
                yield {"model_name": "tiny-image", "inputs": pixel_input(triton_grpc, PIXELS), "request_id": str(number)}

        async with triton_grpc_aio.InferenceServerClient(images.grpc) as client:
            count = 0
            async for result, error in client.stream_infer(requests()):
                assert error is None, error
                assert result.get_response().id == str(count)
                count += 1
            assert count == 5

    asyncio.run(use())


def check_compression_both_ways(images, _types):
    for algorithm in ("gzip", "deflate"):
        client = triton.InferenceServerClient(images.http)
        tensors = pixel_input(triton, np.concatenate([PIXELS, PIXELS]))
        result = client.infer(
            "tiny-image", tensors, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        np.testing.assert_allclose(result.as_numpy("means")[:3], MEANS, atol=1e-6)
        client = triton_grpc.InferenceServerClient(images.grpc)
        result = client.infer("tiny-image", pixel_input(triton_grpc, PIXELS), compression_algorithm=algorithm)
        np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)


def check_parameters(images, _types):
    for module, client in clients(images):
        tensors = pixel_input(module, PIXELS)
        parameters = {"mine": "own", "count": 3}
        result = client.infer("tiny-image", tensors, priority=1, timeout=20_000_000, parameters=parameters)
        np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)
    client = triton_grpc.InferenceServerClient(images.grpc)
    assert client.infer("tiny-image", pixel_input(triton_grpc, PIXELS), client_timeout=20.0)


def check_images_as_bytes(images, _types):
    for module, client in clients(images):
        names = ["wide.png", "photo.jpg", "lossless.webp"]
        answers = []
        for shape in ([3], [3, 1]):
            tensor = module.InferInput("pixel_values", shape, "BYTES")
            tensor.set_data_from_numpy(files(*names).reshape(shape))
            answers.append(client.infer("tiny-image", [tensor]).as_numpy("embedding"))
        assert answers[0].shape == (3, 4)
        np.testing.assert_array_equal(answers[0], answers[1])
        # The first and the last are the same picture in two lossless formats.
        np.testing.assert_array_equal(answers[0][0], answers[0][2])


def check_every_type(_images, types):
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
    for module, client in clients(types):
        tensors = []
        for name, value in values.items():
            tensor = module.InferInput(f"in_{name}", [1, 2], name)
            tensor.set_data_from_numpy(value)
            tensors.append(tensor)
        result = client.infer("types", tensors)
        for name, value in values.items():
            np.testing.assert_array_equal(result.as_numpy(f"out_{name}"), value, err_msg=name)


def check_errors_reach_the_client(images, _types):
    for module, client in clients(images):
        status = "400" if module is triton else "StatusCode.INVALID_ARGUMENT"
        tensors = pixel_input(module, np.zeros((1, 3, 8, 8), np.float32))
        for call, part in [
            (lambda: client.infer("tiny-image", tensors), "unexpected shape for input 'pixel_values'"),
            (lambda: client.infer("nobody", tensors), "Request for unknown model: 'nobody' is not found"),
            (lambda: client.get_model_metadata("tiny-image", "9"), "version 9 is not found"),
        ]:
            error = refused(call)
            assert part in error.message() and error.status() == status, error
        assert refused(lambda: client.load_model("tiny-image")), "not without --model-control-mode explicit"
        assert refused(lambda: client.register_system_shared_memory("r", "/r", 8))
        assert not client.get_system_shared_memory_status() or module is triton_grpc
        client.unregister_system_shared_memory()


def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("no error")


def check_statistics_count(images, _types):
    for module, client in clients(images):
        as_json = {} if module is triton else {"as_json": True}
        read = lambda: client.get_inference_statistics("tiny-image", **as_json)["model_stats"][0]
        before = int(read()["inference_count"])
        client.infer("tiny-image", image_input(module, "wide.png", "high.png"))
        after = read()
        assert int(after["inference_count"]) == before + 2
        assert after["batch_stats"] and int(after["last_inference"]) > 1_600_000_000_000
        assert int(after["inference_stats"]["queue"]["count"]) > 0


def check_loading_and_unloading(_images, _types):
    with running(modelRepository=str(FIXTURES), modelControlMode="Explicit", loadModels=["types"]) as server:
        for module, client in clients(server):
            assert not client.is_model_ready("tiny-image")
            client.load_model("tiny-image", config=json.dumps({"max_batch_size": 2}))
            assert client.is_model_ready("tiny-image")
            config = client.get_model_config("tiny-image", **({} if module is triton else {"as_json": True}))
            assert config.get("config", config)["max_batch_size"] == 2
            result = client.infer("tiny-image", pixel_input(module, PIXELS))
            np.testing.assert_allclose(result.as_numpy("means"), MEANS, atol=1e-6)
            client.unload_model("tiny-image")
            assert not client.is_model_ready("tiny-image") and client.is_model_ready("types")
            assert "nobody" in refused(lambda: client.load_model("nobody")).message()
            as_json = {} if module is triton else {"as_json": True}
            assert "model_repository" in client.get_server_metadata(**as_json)["extensions"]


def check_health_by_grpc_s_own_service(images, _types):
    """What Kubernetes and load balancers ask; its two messages are short enough to be written by hand."""
    with grpc.insecure_channel(images.grpc) as channel:
        ask = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert ask(b"") == b"\x08\x01", "SERVING"
        assert ask(b"\x0a\x1einference.GRPCInferenceService") == b"\x08\x01"
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch) == b"\x08\x01"
        watch.cancel()


def check_a_bomb_costs_little(images, _types):
    """512 MiB of spaces in half a megabyte of gzip: refused, with little memory and time."""
    compressor = zlib.compressobj(wbits=31)
    piece = b" " * (1 << 20)
    bomb = b"".join(compressor.compress(piece) for _ in range(512)) + compressor.flush()
    memory, cpu = used(images.pid)
    host, port = images.http.split(":")
    for _ in range(4):
        connection = http.client.HTTPConnection(host, int(port), timeout=LIMIT_SECONDS)
        connection.request("POST", "/v2/models/tiny-image/infer", bomb, {"Content-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.status == 413, answer.status
        assert "times as large" in json.loads(answer.read())["error"]
    memory_after, cpu_after = used(images.pid)
    # A debug build inflates slowly; a release build takes a fiftieth of a second for each.
    assert cpu_after - cpu < 20 and memory_after - memory < 256 << 20, (cpu_after - cpu, memory_after - memory)


def used(pid):
    """The most memory that a process has had, and the seconds of CPU."""
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(status["VmHWM"].split()[0]) << 10, (int(fields[11]) + int(fields[12])) / 100


def check_many_at_once(images, _types):
    async def use(module, client):
        results = await asyncio.gather(*(client.infer("tiny-image", image_input(module, "photo.jpg")) for _ in range(64)))
        first = results[0].as_numpy("embedding")
        # The size of a batch may change a sum's last bits, nothing more.
        for result in results:
            np.testing.assert_allclose(result.as_numpy("embedding"), first, rtol=1e-4, atol=1e-5)

    asyncio.run(with_aio_clients(images, use))


if __name__ == "__main__":
    main(sys.argv[1])
