"""How each server is started: a function gives the command and the variables, from the server and the Python of its environment."""

import dataclasses
import json
import pathlib
import shutil
import subprocess

import exchange
from servers import PEERS, Peer


def flotilla(server, _python):
    model = {"name": "model", "path": str(server.materials.folder)}
    if server.setting.kind == "jpeg":
        model["preprocessing"] = {"preset": "Clip"}
    settings = {
        "version": 1,
        "model": model,
        "executionProvider": "Cpu",
        "batching": {"maxBatchSize": server.setting.max_batch},
        # Peers never close a connection.
        "http": {"port": server.http, "maxConnectionAgeSeconds": 3600, "maxBodyBytes": 256 << 20},
        "grpc": {"port": server.grpc},
        "metrics": {"port": server.metrics},
        "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
    }
    file = server.folder / "settings.json"
    file.write_text(json.dumps(settings))
    variables = {"FLOTILLA_ORT_LIBRARY": server.tools.library, "FLOTILLA_LOG_LEVEL": "warn"}
    return [server.tools.flotilla, "--settings", str(file)], variables


def script(server, python):
    return [python, str(PEERS / server.name.lower() / "server.py")], {}


def mosec(server, python):
    command = [python, str(PEERS / "mosec" / "server.py"), "--address", "127.0.0.1", "--port", str(server.http)]
    # The least that it can wait is right for a model of no cost.
    variables = {"BENCH_WAIT_MILLISECONDS": "1" if server.materials.name == "identity" else "5"}
    return [*command, "--timeout", "60000", "--log-level", "error", "--max-request-size", str(64 << 20)], variables


def mlserver(server, python):
    model, jpeg = server.folder / "models", server.setting.kind == "jpeg"
    model.mkdir()
    settings = {
        "host": "127.0.0.1",
        "http_port": server.http,
        "grpc_port": server.grpc,
        "metrics_port": server.metrics,
        "grpc_max_message_length": 256 << 20,
        "parallel_workers": 0,
        "debug": False,
        "use_structured_logging": False,
        "metrics_dir": str(server.folder / "metrics"),
        "environments_dir": str(server.folder / "environments"),
        "extensions": [],
    }
    (server.folder / "metrics").mkdir()
    (model / "settings.json").write_text(json.dumps(settings))
    shape = {
        "name": "input",
        "datatype": "BYTES" if jpeg else "FP32",
        "shape": [-1, 1] if jpeg else [-1, *server.materials.input_dims],
    }
    batching = (
        {"max_batch_size": server.setting.max_batch, "max_batch_time": 0.005} if server.setting.max_batch > 1 else {}
    )
    described = {"name": "model", "implementation": "runtime.Runtime", "inputs": [shape], **batching}
    (model / "model-settings.json").write_text(json.dumps(described))
    shutil.copy(PEERS / "mlserver" / "runtime.py", model)
    return [python, "-c", "from mlserver.cli import main; main()", "start", str(model)], {"PYTHONPATH": str(PEERS)}


def triton(server, python):
    installed, jpeg = pathlib.Path(server.tools.triton), server.setting.kind == "jpeg"
    model = server.folder / "models" / "model"
    (model / "1").mkdir(parents=True)
    text = (PEERS / "triton" / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(
        text.format(
            max_batch=server.setting.max_batch,
            input_type="TYPE_STRING" if jpeg else "TYPE_FP32",
            input_dims=[1] if jpeg else server.materials.input_dims,
            output_dims=server.materials.output_dims,
        )
    )
    shutil.copy(PEERS / "triton" / "model.py", model / "1")
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    command = [
        installed / "bin" / "tritonserver",
        f"--model-repository={server.folder / 'models'}",
        f"--backend-directory={installed / 'backends'}",
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
        f"--http-port={server.http}",
        f"--grpc-port={server.grpc}",
        f"--metrics-port={server.metrics}",
        "--log-info=0",
        "--log-warning=0",
    ]
    variables = {
        "LD_LIBRARY_PATH": str(installed / "lib"),
        "BENCH_PATH": f"{packages.stdout.strip()}:{PEERS}",
        "PATH": "/usr/bin:/bin",
    }
    return [str(part) for part in command], variables


def bentoml(server, python):
    command = [python, "-m", "bentoml", "serve", "service:Service", "--working-dir", str(PEERS / "bentoml")]
    command += ["--host", "127.0.0.1", "--port", str(server.http)]
    return command, {"BENTOML_HOME": str(server.folder / "home"), "BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1"}


FLOTILLA = Peer("Flotilla", flotilla, exchange.flotilla, "/v2/health/ready", grpc=True, environment="bare")
ALL = [
    Peer("FastAPI", script, exchange.fastapi, "/ready"),
    Peer("LitServe", script, exchange.litserve, "/health"),
    Peer("mosec", mosec, exchange.mosec, "/metrics"),
    Peer("MLServer", mlserver, exchange.mlserver, "/v2/models/model/ready", grpc=True),
    Peer("Triton", triton, exchange.triton, "/v2/health/ready", grpc=True),
    Peer("PyTriton", script, exchange.triton, "/v2/models/model/ready", grpc=True, environment="triton"),
    Peer("BentoML", bentoml, exchange.bentoml, "/readyz"),
]
# With a model of no cost most are cheapest without batches. mosec is not where there are many requests, but waits for them.
OF_NO_COST = [*ALL, dataclasses.replace(ALL[2], name="mosec-batched", environment="mosec")]
BATCHED = {"Flotilla", "Triton", "PyTriton", "mosec-batched"}
