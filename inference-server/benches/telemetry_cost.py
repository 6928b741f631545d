"""What the access log and traces cost the server for each request, beside the same server without them.

usage: telemetry_cost.py path/to/flotilla-server instructions|cpu [turns]

`instructions` counts those of the process (not the system's) with valgrind's callgrind, as the difference between a long and a short
run, so that neither the start nor the machine's load matters. `cpu` is the operating system's accounting at a pace, in turns. Traces
go, at a ratio of 1, to a collector in this script that takes everything and keeps nothing.
"""

import http.server
import statistics
import sys
import threading

from request_cost import Http, cpu_nanoseconds, instructions, running

RATE, WARM_UP_SECONDS, SECONDS = 1000, 1, 4


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def microseconds(command):
    with running(command) as (process, ports):
        client = Http(ports)
        client.paced(RATE, WARM_UP_SECONDS)
        before = cpu_nanoseconds(process.pid)
        latencies, _ = client.paced(RATE, SECONDS)
        return (cpu_nanoseconds(process.pid) - before) / len(latencies) / 1e3


def main(server, what, turns="5"):
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    traces = f"--otlp-endpoint=http://127.0.0.1:{collector.server_port}"
    measure = {"instructions": lambda command: instructions(command, Http), "cpu": microseconds}[what]
    variants = {"neither": [], "access log": ["--access-log"], "traces": [traces], "both": ["--access-log", traces]}
    results = {name: [] for name in variants}
    for _ in range(int(turns)):
        for name, arguments in variants.items():
            results[name].append(measure([server, *arguments]))
            print(f"{name}: {results[name][-1]:,.0f}", file=sys.stderr, flush=True)
    print(f"| | {what} a request, median | all turns |\n| --- | --- | --- |")
    for name, values in results.items():
        print(f"| {name} | {statistics.median(values):,.0f} | {', '.join(f'{value:,.0f}' for value in values)} |")


main(*sys.argv[1:])
