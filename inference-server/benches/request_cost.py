"""What one request costs the server in CPU, without a model: the operating system's accounting over a paced run.

usage: request_cost.py [--grpc] [--counts] [--least path/to/examples/echo] path/to/flotilla-server [requests per second ...]

A device that takes no time, a float32 tensor [1,16] in and out as binary data over HTTP/1.1, connections that are kept; requests are
sent at their times whether or not earlier ones are answered, as long as a connection is free. Only the standard library is used, so
that the client is the same everywhere. With --grpc it is one channel of gRPC, for which Python needs the package grpcio.

With --least, each rate is also sent to a program that answers every read with a write and looks at nothing (examples/echo.rs), in turn
with the server: what of the figures is the machine's. The server's threads and those of that program may use every core.

With --counts, what does not depend on what else the machine does: system calls a request (strace) and instructions a request in the
program itself, the kernel's left out (valgrind), each as the difference between a longer and a shorter run.
"""

import argparse
import json
import pathlib
import re
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager

CONNECTIONS = 16
WARM_UP_SECONDS = 2
SECONDS = 8
# For counts: so many requests, one after the other, and so many more; with a pause between them, so that each finds a server asleep.
FEW, MORE = 200, 1000
PAUSE_SECONDS = 0.004


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--grpc", action="store_true")
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--least")
    parser.add_argument("server")
    parser.add_argument("rates", nargs="*", type=int)
    arguments = parser.parse_args()
    client = Grpc if arguments.grpc else Http
    if arguments.counts:
        system_calls(arguments.server, client)
        print(f"instructions a request: {instructions([arguments.server], client):.0f}")
        return
    print("| offered/s | server | answered/s | CPU us/request | switches/request | p50 ms | p99 ms |\n" + "| --- " * 7 + "|")
    with ExitStack() as stack:
        process, ports = stack.enter_context(running([arguments.server]))
        servers = {"flotilla-server": (process.pid, client(ports).paced)}
        if arguments.least:
            echo = stack.enter_context(echoing(arguments.least))
            servers["reads and writes only"] = (echo[0].pid, Http({"http": echo[1]}).paced)
        for rate in arguments.rates or [500, 1000, 2000]:
            for name, (pid, paced) in servers.items():
                print(f"| {rate} | {name} | " + " | ".join(measured(pid, paced, rate)) + " |", flush=True)


def measured(pid, paced, rate):
    paced(rate, WARM_UP_SECONDS)
    before = cpu_nanoseconds(pid), switches(pid)
    latencies, elapsed = paced(rate, SECONDS)
    cpu, switched = cpu_nanoseconds(pid) - before[0], switches(pid) - before[1]
    latencies.sort()
    at = lambda part: latencies[int(part * (len(latencies) - 1))] * 1e3
    count = len(latencies)
    return [f"{count / elapsed:.0f}", f"{cpu / count / 1e3:.1f}", f"{switched / count:.2f}", f"{at(0.5):.2f}", f"{at(0.99):.2f}"]


@contextmanager
def echoing(program):
    """The program that only reads and writes, until the block ends: its process and its port."""
    process = subprocess.Popen([program], stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(60)


def system_calls(server, client):
    """Of requests that come one by one, which is the most that one can cost."""
    with running([server]) as (process, ports):
        connection = client(ports)
        connection.in_turn(FEW)
        totals = []
        for count in (FEW, FEW + MORE):
            with tempfile.NamedTemporaryFile("r") as out:
                tracer = subprocess.Popen(["strace", "-f", "-c", "-o", out.name, "-p", str(process.pid)], stderr=subprocess.PIPE)
                tracer.stderr.readline()  # it is attached
                time.sleep(1)
                connection.in_turn(count)
                tracer.send_signal(signal.SIGINT)
                tracer.wait()
                rows = [line.split() for line in out.read().splitlines()]
            totals.append({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"})
    found = {name: (totals[1][name] - totals[0].get(name, 0)) / MORE for name in totals[1]}
    found = {name: value for name, value in sorted(found.items(), key=lambda item: -item[1]) if value >= 0.01}
    print(f"system calls a request: {sum(found.values()):.2f} (" + ", ".join(f"{name} {value:.2f}" for name, value in found.items()) + ")")


def instructions(command, client):
    """Of the program itself for one request, as the difference between a longer and a shorter run."""
    totals = []
    for count in (FEW, FEW + MORE):
        with tempfile.NamedTemporaryFile() as out:
            # Its own words are no lines of the server's log.
            valgrind = ["valgrind", "--quiet", "--log-file=/dev/null", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
            with running([*valgrind, *command]) as (_, ports):
                client(ports).in_turn(count)
            totals.append(int(re.search(rb"^(?:summary|totals): (\d+)", pathlib.Path(out.name).read_bytes(), re.M)[1]))
    return (totals[1] - totals[0]) / MORE


@contextmanager
def running(command):
    """The server with its device, until the block ends: its process, and its ports by protocol."""
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder, "model", "1")
        model.mkdir(parents=True)
        (model / "timer.json").write_text(json.dumps({"alphaMicroseconds": 0, "tau0Microseconds": 0, "dims": [16]}))
        settings = pathlib.Path(folder, "settings.json")
        settings.write_text(
            json.dumps(
                {
                    "version": 1,
                    "model": {"name": "timer", "path": str(model.parent)},
                    "http": {"port": 0, "maxConnectionAgeSeconds": 3600},
                    "grpc": {"port": 0},
                    "metrics": {"port": 0},
                    "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
                }
            )
        )
        log = pathlib.Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen([*command, "--settings", str(settings)], stderr=output)
        try:
            yield process, ready_ports(process, log)
        finally:
            process.terminate()
            process.wait(60)


class Http:
    """Connections that are kept for one measurement; a server closes those that stay idle."""

    def __init__(self, ports):
        self.port = ports["http"]

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def in_turn(self, count):
        with self.connect() as connection:
            message = request()
            for _ in range(count):
                connection.sendall(message)
                answer = connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
                time.sleep(PAUSE_SECONDS)

    def paced(self, rate, seconds):
        with ExitStack() as stack:
            return paced([stack.enter_context(self.connect()) for _ in range(CONNECTIONS)], rate, seconds)


class Grpc:
    """One channel; messages are bytes made here, so that no generated code is needed."""

    def __init__(self, ports):
        import grpc

        self.channel = grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}")
        self.call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        field = lambda number, value: bytes([number << 3 | 2, len(value)]) + value
        tensor = field(1, b"input") + field(2, b"FP32") + field(3, bytes([1, 16]))
        self.message = field(1, b"timer") + field(5, tensor) + field(7, bytes(64))

    def in_turn(self, count):
        for _ in range(count):
            self.call(self.message, timeout=60)
            time.sleep(PAUSE_SECONDS)

    def paced(self, rate, seconds):
        start, total, latencies = time.perf_counter(), int(rate * seconds), []
        done = threading.Semaphore(0)

        def answered(future, due):
            latencies.append(time.perf_counter() - due)
            assert future.exception() is None, future.exception()
            done.release()

        for index in range(total):
            due = start + index / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            self.call.future(self.message, timeout=60).add_done_callback(lambda future, due=due: answered(future, due))
        for _ in range(total):
            assert done.acquire(timeout=60)
        return latencies, time.perf_counter() - start


def request():
    tensor = {"name": "input", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": 64}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = header + bytes(64)
    head = (
        "POST /v2/models/timer/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def paced(connections, rate, seconds):
    """Sends at a rate; the latency of every answer, from when its request was due."""
    message = request()
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ)
    free, due, latencies = list(connections), {}, []
    start = time.perf_counter()
    total, sent = int(rate * seconds), 0
    while len(latencies) < total:
        now = time.perf_counter()
        while sent < total and free and start + sent / rate <= now:
            connection = free.pop(0)  # all in turn, or the idle ones would be closed
            due[connection] = start + sent / rate
            connection.sendall(message)
            sent += 1
        next_send = start + sent / rate if sent < total and free else now + 0.05
        for key, _ in selector.select(max(0.0, next_send - time.perf_counter())):
            answer = key.fileobj.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
            latencies.append(time.perf_counter() - due.pop(key.fileobj))
            free.append(key.fileobj)
    selector.close()
    return latencies, time.perf_counter() - start


def cpu_nanoseconds(pid):
    """The time that all threads have run."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def switches(pid):
    """How often its threads went to sleep: each time costs a change of thread."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)[1]) for task in tasks)


def ready_ports(process, log):
    for _ in range(2400):
        assert process.poll() is None, log.read_text()
        lines = [line for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        ready = [json.loads(line)["fields"] for line in lines]
        if any(fields["message"] == "the model is ready" for fields in ready):
            listening = next(fields for fields in ready if fields["message"] == "listening")
            return {name: int(listening[name].rsplit(":", 1)[1]) for name in ("http", "grpc")}
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


if __name__ == "__main__":
    main()
