"""What the access log and traces cost the server for each request, beside the same server without them.

usage: telemetry_cost.py path/to/flotilla-server instructions|cpu [turns]

`instructions` counts those of the process (not the system's) with valgrind's callgrind, as the difference between a long and a short
run, so that neither the start nor the machine's load matters. `cpu` is the operating system's accounting at a pace, in turns. Traces
go, at a ratio of 1, to a collector in this script that takes everything and keeps nothing.
"""

import http.server
import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading

from request_cost import CONNECTIONS, cpu_nanoseconds, paced, ready_port, request

SHORT, LONG = 500, 2500
RATE, SECONDS = 1000, 4


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server:
    """A server with the timer that takes no time, and connections to it."""

    def __init__(self, command, arguments):
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        (folder / "model/1").mkdir(parents=True)
        (folder / "model/1/timer.json").write_text('{"alphaMicroseconds":0,"tau0Microseconds":0,"dims":[16]}')
        settings = {
            "version": 1,
            "model": {"name": "timer", "path": str(folder / "model")},
            "http": {"port": 0, "maxConnectionAgeSeconds": 3600},
            "grpc": {"port": 0},
            "metrics": {"port": 0},
            "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        with (folder / "log").open("w") as log:
            line = [*command, "--settings", str(folder / "settings.json"), *arguments]
            self.process = subprocess.Popen(line, stderr=log, stdout=subprocess.DEVNULL)
        self.port = ready_port(self.process, folder / "log")

    def connections(self, count):
        connections = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connections

    def end(self):
        self.process.terminate()
        self.process.wait(120)
        self.folder.cleanup()


def instructions(server, arguments, count):
    """Of a whole run with so many requests, one after the other."""
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--quiet", "--log-file=/dev/null", "--tool=callgrind", f"--callgrind-out-file={out.name}", server]
        running = Server(command, arguments)
        (connection,) = running.connections(1)
        for _ in range(count):
            connection.sendall(request())
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        connection.close()
        running.end()
        return int(re.search(r"^totals: (\d+)", pathlib.Path(out.name).read_text(), re.MULTILINE).group(1))


def instructions_per_request(server, arguments):
    return (instructions(server, arguments, LONG) - instructions(server, arguments, SHORT)) / (LONG - SHORT)


def microseconds_per_request(server, arguments):
    running = Server([server], arguments)
    connections = running.connections(CONNECTIONS)
    paced(connections, RATE, 1)
    before = cpu_nanoseconds(running.process.pid)
    latencies, _ = paced(connections, RATE, SECONDS)
    cost = (cpu_nanoseconds(running.process.pid) - before) / len(latencies) / 1e3
    running.end()
    return cost


def main(server, what, turns="5"):
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    traces = f"--otlp-endpoint=http://127.0.0.1:{collector.server_port}"
    measure = {"instructions": instructions_per_request, "cpu": microseconds_per_request}[what]
    variants = {"neither": [], "access log": ["--access-log"], "traces": [traces], "both": ["--access-log", traces]}
    results = {name: [] for name in variants}
    for _ in range(int(turns)):
        for name, arguments in variants.items():
            results[name].append(measure(server, arguments))
            print(f"{name}: {results[name][-1]:,.0f}", file=sys.stderr, flush=True)
    print(f"| | {what} a request, median | all turns |\n| --- | --- | --- |")
    for name, values in results.items():
        print(f"| {name} | {statistics.median(values):,.0f} | {', '.join(f'{value:,.0f}' for value in values)} |")


main(*sys.argv[1:])
