"""Servers that are measured: how each is started, when it is ready, and how it ends. Processes are in sessions of their own, on free
ports of loopback, and are ended by their ids."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import accounting
import exchange

PEERS = pathlib.Path(__file__).resolve().parent.parent / "peers"
# How long a server may take to become ready, and to end.
START_SECONDS, STOP_SECONDS = 180, 20


class Failed(Exception):
    """A server that could not be measured, and why."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a server is run, the same for all in one comparison."""

    kind: str  # jpeg or tensor
    threads: int
    max_batch: int
    cores: tuple = ()  # which it may use; all where none are named


@dataclasses.dataclass(frozen=True)
class Peer:
    """What differs between servers. `start` gives the command from (server, python); paths are the readiness route."""

    name: str
    start: object
    exchange: object
    ready: str
    grpc: bool = False
    # Which folder of bench/peers has its requirements.
    environment: str = ""


class Server:
    """One that runs, from `with` on."""

    def __init__(self, peer, materials, setting, tools):
        self.peer, self.materials, self.setting, self.tools = peer, materials, setting, tools
        self.http, self.grpc, self.metrics = free_ports(3)

    @property
    def name(self):
        return self.peer.name

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"flotilla-bench-{self.name.lower()}-"))
        python = self.tools.python(self.peer.environment or self.peer.name.lower())
        command, variables = self.peer.start(self, python)
        environment = {
            **os.environ,
            "BENCH_MODEL": str(self.materials.file),
            "BENCH_KIND": self.setting.kind,
            "BENCH_THREADS": str(self.setting.threads),
            "BENCH_MAX_BATCH": str(self.setting.max_batch),
            "BENCH_PORT": str(self.http),
            "BENCH_GRPC_PORT": str(self.grpc),
            "BENCH_METRICS_PORT": str(self.metrics),
            "BENCH_FOLDER": str(self.folder),
            # Nothing but the session has threads of its own.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        cores, log = self.setting.cores, (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        log.close()
        try:
            self.start_seconds = self.until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def until_ready(self):
        start, why = time.monotonic(), "nothing was asked"
        while time.monotonic() - start < START_SECONDS:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with {self.process.returncode} at its start:\n{self.log()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{self.peer.ready}", timeout=5) as answer:
                    if answer.status == 200:
                        return time.monotonic() - start
            except OSError as error:
                why = str(error)
            time.sleep(0.1)
        raise Failed(f"{self.name} was not ready within {START_SECONDS} s ({why}):\n{self.log()}")

    def log(self):
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-25:])

    def exchange(self, protocol, materials=None):
        return self.peer.exchange(materials or self.materials, self.setting.kind, protocol)

    def address(self, protocol):
        return f"127.0.0.1:{self.grpc if protocol == 'Grpc' else self.http}"

    def cpu(self):
        return accounting.snapshot(self.process.pid)


def stop(process):
    """Asks a process and what it started to end, then ends what is left."""
    left = accounting.tree(process.pid) | {process.pid}
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    for pid in left | accounting.tree(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def free_ports(count):
    """Ports that were free just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


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
    return [*command, "--timeout", "60000", "--log-level", "error", "--max-request-size", str(64 << 20)], {}


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
    shape = {"name": "input", "datatype": "BYTES" if jpeg else "FP32", "shape": [-1, 1] if jpeg else [-1, *server.materials.input_dims]}
    batching = {"max_batch_size": server.setting.max_batch, "max_batch_time": 0.005} if server.setting.max_batch > 1 else {}
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
    packages = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True)
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
    variables = {"LD_LIBRARY_PATH": str(installed / "lib"), "BENCH_PATH": f"{packages.stdout.strip()}:{PEERS}", "PATH": "/usr/bin:/bin"}
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


class Bare:
    """ONNX Runtime alone, called from Python, with the same interface as a server where it can have it."""

    def __init__(self, name, materials, setting, tools, decoder="pillow"):
        self.name, self.materials, self.setting, self.tools, self.decoder = name, materials, setting, tools, decoder

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flotilla-bench-bare-"))
        environment = {
            **os.environ,
            "BENCH_MODEL": str(self.materials.file),
            "BENCH_KIND": self.setting.kind,
            "BENCH_THREADS": str(self.setting.threads),
            "BENCH_MAX_BATCH": str(self.setting.max_batch),
            "BENCH_DECODER": self.decoder,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [self.tools.python("bare"), str(PEERS / "bare" / "bare.py")]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.files = []
        for index, body in enumerate(exchange.contents(self.materials, self.setting.kind)):
            file = self.folder / str(index)
            file.write_bytes(body)
            self.files.append(str(file))
        if not self.process.stdout.readline():
            self.__exit__()
            raise Failed(f"{self.name} did not start; its message is above")
        return self

    def __exit__(self, *_):
        stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, batch, seconds):
        self.process.stdin.write(json.dumps({"bodies": self.files, "batch": batch, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended while it was measured; its message is above")
        return json.loads(line)

    def cpu(self):
        return accounting.snapshot(self.process.pid)
