"""Short runs of perf_analyzer against a built server; what it says of the server is compared with the server's own statistics.

usage: tests/perf_analyzer, which fetches the tool
"""

import csv
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

MODEL = pathlib.Path(__file__).parent / "fixtures" / "tiny-image"
LIMIT_SECONDS = 120
# One window of so many requests, whatever its rate: whether it works is asked here, and not how fast it is.
WINDOW = ["--request-count", "120"]
RUNS = [
    ("HTTP", ["-i", "http", "--concurrency-range", "4"]),
    ("gRPC", ["-i", "grpc", "--concurrency-range", "4"]),
    ("gRPC, streaming", ["-i", "grpc", "--streaming", "--concurrency-range", "4"]),
    ("HTTP, batches of 3", ["-i", "http", "-b", "3", "--concurrency-range", "2"]),
    ("gRPC, compressed", ["-i", "grpc", "--grpc-compression-algorithm", "gzip", "--concurrency-range", "2"]),
]
# Columns that only the server's statistics can fill.
SERVER_COLUMNS = ["Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output"]


def main(server, tool):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        settings = folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "version": 1,
                    "model": {"name": "tiny-image", "path": str(MODEL)},
                    "executionProvider": "Cpu",
                    "batching": {"maxBatchSize": 8},
                    "http": {"port": 0},
                    "grpc": {"port": 0},
                    "metrics": {"port": 0},
                    "drain": {"delaySeconds": 0, "timeoutSeconds": 5},
                }
            )
        )
        log = folder / "log"
        with log.open("w") as output:
            process = subprocess.Popen([server, "--settings", str(settings)], stderr=output)
        try:
            addresses = ready(process, log)
            for name, arguments in RUNS:
                check(tool, addresses, name, arguments, folder / "result.csv")
        finally:
            process.terminate()
            assert process.wait(LIMIT_SECONDS) == 0, log.read_text()


def check(tool, addresses, name, arguments, result):
    protocol = "grpc" if "grpc" in arguments else "http"
    before = statistics(addresses)
    result.unlink(missing_ok=True)
    command = [tool, "-m", "tiny-image", "-u", addresses[protocol], "-f", str(result), *arguments, *WINDOW]
    run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    after = statistics(addresses)
    assert run.returncode == 0 and result.exists(), run.stdout + run.stderr
    [row] = list(csv.DictReader(result.open()))
    rate = float(row["Inferences/Second"])
    assert rate > 0, row
    for column in SERVER_COLUMNS:
        assert column in row and float(row[column]) >= 0, (column, row)
    assert float(row["Server Compute Infer"]) > 0, "the server's statistics are read"
    batches = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in after["batch_stats"]}
    assert sum(batches.values()) == after["execution_count"], after
    assert after["inference_count"] > before["inference_count"]
    assert after["inference_stats"]["fail"]["count"] == 0, after
    print(f"ok {name}: {rate:.0f} inferences/s, compute {row['Server Compute Infer']} us, queue {row['Server Queue']} us")


def statistics(addresses):
    with urllib.request.urlopen(f"http://{addresses['http']}/v2/models/tiny-image/stats", timeout=LIMIT_SECONDS) as answer:
        return json.load(answer)["model_stats"][0]


def ready(process, log):
    addresses = None
    for _ in range(LIMIT_SECONDS * 20):
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            fields = json.loads(line)["fields"]
            if fields["message"] == "listening":
                addresses = {name: "127.0.0.1:" + fields[name].rsplit(":", 1)[1] for name in ("http", "grpc")}
        if addresses:
            try:
                with urllib.request.urlopen(f"http://{addresses['http']}/v2/health/ready", timeout=5):
                    return addresses
            except OSError:
                pass
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


main(*sys.argv[1:])
