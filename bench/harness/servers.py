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
    left = accounting.tree(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    # Its own number may be another process's by now; its session's is not while anyone is in it.
    for pid in (left | accounting.tree(process.pid)) - {process.pid}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def free_ports(count):
    """Ports that were free just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


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
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
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
