"""Tests of the demo's client against a stand-in server that answers what the test says."""

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import send

HERE = Path(__file__).resolve().parent

NAMES = json.loads(send.LABELS.read_text())
RIGHT = {name: sorted(labels)[0] for name, labels in send.EXPECTED_LABELS.items()}


def test_right_answers_pass():
    done = run(RIGHT)
    assert done.returncode == 0, done.stderr
    assert "coffee.jpg" in done.stdout and "espresso (99%)" in done.stdout
    assert "duplicate found: chelsea-recompressed.jpg ~ chelsea.jpg (1.00)" in done.stdout
    assert "as float32 tensors it would be 4215 KB" in done.stdout


def test_a_wrong_label_fails():
    done = run(RIGHT | {"coffee.jpg": "teapot"})
    assert done.returncode == 1
    assert "wrong: coffee.jpg: 'teapot' instead of espresso" in done.stderr


def test_a_missing_duplicate_fails():
    done = run(RIGHT, alike=())
    assert done.returncode == 1
    assert "no duplicate; closest" in done.stdout
    assert "wrong: the duplicate was not found" in done.stderr


def test_a_missing_photo_fails():
    done = run({name: label for name, label in RIGHT.items() if name != "rocket.jpg"})
    assert done.returncode == 1
    assert "wrong: rocket.jpg: no such photo was sent" in done.stderr


def test_the_servers_error_is_shown():
    done = run(RIGHT, status=503)
    assert done.returncode == 1
    assert "the server answered 503" in done.stderr and "queue is full" in done.stderr


@pytest.fixture(autouse=True)
def folder(tmp_path):
    run.folder = tmp_path


def run(labels: dict[str, str], alike=("chelsea.jpg", "chelsea-recompressed.jpg"), status: int = 200):
    """Runs the client on photos whose bytes are their names, so that the server knows which is which."""
    for name in labels:
        (run.folder / name).write_bytes(name.encode())

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            name = self.rfile.read(int(self.headers["Content-Length"])).decode()
            right_request = (self.path, self.headers["Content-Type"]) == ("/v2/models/m/infer", "image/jpeg")
            body = answer(name) if status == 200 else {"error": "the queue is full"}
            data = json.dumps(body).encode()
            self.send_response(status if right_request else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    def answer(name):
        logits = [0.0] * 1000
        logits[NAMES.index(labels[name])] = 12.0
        direction = "alike" if name in alike else name
        embedding = [float(direction == other) for other in ["alike", *labels]]
        return {"outputs": [output("embedding", embedding), output("logits", logits)]}

    def output(name, data):
        return {"name": name, "datatype": "FP32", "shape": [1, len(data)], "data": data}

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        command = [sys.executable, HERE / "send.py", "--url", url, "--model", "m", "--photos", run.folder, "--check"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        server.shutdown()
    return done
