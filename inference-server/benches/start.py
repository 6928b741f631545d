"""Seconds from exec to ready, and what they were spent on, as the server's own log says it.

usage: FLOTILLA_ORT_LIBRARY=... start.py path/to/flotilla-server RUNS MODEL_FOLDER [MODEL_FOLDER ...]

The models are started in turns on the provider Cpu with the default batch of 32; their files are read once before, so that they are in
the system's memory, as they are on a node where a replica ran before.
"""

import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time


def main(server, runs, *models):
    models = [pathlib.Path(model) for model in models]
    for model in models:
        for file in model.glob("1/*"):
            file.read_bytes()
    found = {model: [] for model in models}
    for _ in range(int(runs)):
        for model in models:
            found[model].append(start(server, model))
    print("| model | exec to ready, s: median (all) | CPU s | " + "spent on, s: median |\n| --- | --- | --- | --- |")
    for model, starts in found.items():
        seconds = sorted(seconds for seconds, _, _ in starts)
        phases = {name: statistics.median(spent[name] for _, _, spent in starts) for name in starts[0][2]}
        cpu = statistics.median(cpu for _, cpu, _ in starts)
        everything = ", ".join(f"{value:.2f}" for value in seconds)
        spent = ", ".join(f"{name} {value:.3f}" for name, value in phases.items())
        print(f"| {model.name} | {statistics.median(seconds):.2f} ({everything}) | {cpu:.2f} | {spent} |", flush=True)


def start(server, model):
    with tempfile.TemporaryDirectory() as folder:
        settings = pathlib.Path(folder, "settings.json")
        ports = {name: {"port": 0} for name in ("http", "grpc", "metrics")}
        drain = {"delaySeconds": 0, "timeoutSeconds": 5}
        wish = {"version": 1, "model": {"name": "m", "path": str(model)}, "executionProvider": "Cpu", "drain": drain, **ports}
        settings.write_text(json.dumps(wish))
        begun = time.perf_counter()
        process = subprocess.Popen([server, "--settings", str(settings)], stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                fields = json.loads(line)["fields"]
                if fields["message"] == "the model is ready":
                    seconds = time.perf_counter() - begun
                    stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
                    spent = re.findall(r"([a-z0-9_]+) ([0-9.]+) s", fields["spent"])
                    return seconds, (int(stat[11]) + int(stat[12])) / 100, {name: float(value) for name, value in spent}
            raise RuntimeError("the server ended before it was ready; start it by hand to see why")
        finally:
            process.terminate()
            process.wait(60)


main(*sys.argv[1:])
