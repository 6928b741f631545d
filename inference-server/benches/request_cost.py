"""What one request costs the server in CPU, without a model: the operating system's accounting over a paced run.

usage: request_cost.py path/to/flotilla-server [requests per second ...]

A device that takes no time, a float32 tensor [1,16] in and out as binary data over HTTP/1.1, connections that are kept; requests are
sent at their times whether or not earlier ones are answered, as long as a connection is free. Only the standard library is used, so
that the client is the same everywhere.
"""

import json
import pathlib
import selectors
import socket
import subprocess
import sys
import tempfile
import time

CONNECTIONS = 16
WARM_UP_SECONDS = 2
SECONDS = 8


def main(server, *rates):
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
            process = subprocess.Popen([server, "--settings", str(settings)], stderr=output)
        try:
            port = ready_port(process, log)
            connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
            for connection in connections:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            print("| offered/s | answered/s | CPU us/request | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |")
            for rate in [int(rate) for rate in rates] or [500, 1000, 2000]:
                paced(connections, rate, WARM_UP_SECONDS)
                before = cpu_nanoseconds(process.pid)
                latencies, elapsed = paced(connections, rate, SECONDS)
                cpu = cpu_nanoseconds(process.pid) - before
                latencies.sort()
                at = lambda part: latencies[int(part * (len(latencies) - 1))] * 1e3
                count = len(latencies)
                print(f"| {rate} | {count / elapsed:.0f} | {cpu / count / 1e3:.1f} | {at(0.5):.2f} | {at(0.99):.2f} |", flush=True)
        finally:
            process.terminate()
            process.wait(30)


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


def ready_port(process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        ready = [json.loads(line)["fields"] for line in log.read_text().splitlines()]
        if any(fields["message"] == "the model is ready" for fields in ready):
            listening = next(fields for fields in ready if fields["message"] == "listening")
            return int(listening["http"].rsplit(":", 1)[1])
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
