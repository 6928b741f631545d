#!/usr/bin/env python3
"""Sends one photo at a steady rate for a while and shows, second by second, what is answered and how replicas follow.

    kubectl -n flotilla-demo patch infsvc photo-embedder --type=merge -p '{"spec": {"service": {"type": "NodePort"}}}'
    node=$(kubectl get node -o jsonpath='{.items[0].status.addresses[0].address}')
    port=$(kubectl -n flotilla-demo get svc photo-embedder-inference -o jsonpath='{.spec.ports[0].nodePort}')
    python3 demo/load.py --url http://$node:$port --photo ~/.cache/flotilla/photos/chelsea.jpg --rate 60 --seconds 90

A port-forward would do for one replica only: it stays with the pod that it began with.
Requests start when they are due, whether or not earlier ones were answered, up to --connections at the same time.
"""
import argparse
import http.client
import json
import shutil
import subprocess
import threading
import time
from urllib.parse import urlsplit

MOST_RATE, MOST_SECONDS, MOST_CONNECTIONS = 1000, 900, 128


class Sender(threading.Thread):
    """One connection: takes due times from a shared schedule, sends, notes (second, milliseconds, status)."""

    def __init__(self, url, path, photo, schedule, started, notes):
        super().__init__(daemon=True)
        self.host, self.path, self.photo = urlsplit(url).netloc, path, photo
        self.schedule, self.started, self.notes = schedule, started, notes
        self.connection = None

    def run(self):
        for due in self.schedule:
            time.sleep(max(0.0, self.started + due - time.monotonic()))
            status = self.send()
            # From when it was due, so that waiting for a free connection counts too.
            self.notes.append((int(due), (time.monotonic() - self.started - due) * 1000, status))

    def send(self):
        for attempt in (1, 2):  # a server may close an old connection just as it is used again
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection(self.host, timeout=30)
                self.connection.request("POST", self.path, self.photo, {"Content-Type": "image/jpeg"})
                answer = self.connection.getresponse()
                answer.read()
                if answer.will_close:
                    self.close()
                return answer.status
            except (OSError, http.client.HTTPException):
                self.close()
        return 0

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Schedule:
    """Due times in seconds, handed to whichever connection is free."""

    def __init__(self, rate, seconds):
        self.times, self.lock = iter([i / rate for i in range(int(rate * seconds))]), threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            return next(self.times)


def service_state(namespace, service):
    """REPLICAS, QUEUE and the scaling reason from the cluster, or blanks where it can't be asked."""
    if not shutil.which("kubectl"):
        return "", "", ""
    command = ["kubectl", "-n", namespace, "get", "infsvc", service, "-o", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if answer.returncode:
        return "", "", ""
    status = json.loads(answer.stdout).get("status", {})
    summary, scaling = status.get("summary", {}), status.get("scaling", {})
    return summary.get("replicas", ""), summary.get("queue", ""), scaling.get("reason", "")


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="photo-embedder")
    parser.add_argument("--photo", required=True)
    parser.add_argument("--rate", type=float, default=30, help=f"requests per second, at most {MOST_RATE}")
    parser.add_argument("--seconds", type=int, default=60, help=f"at most {MOST_SECONDS}")
    parser.add_argument("--connections", type=int, default=32, help=f"at most {MOST_CONNECTIONS}")
    parser.add_argument("--namespace", default="flotilla-demo")
    arguments = parser.parse_args()
    if not (0 < arguments.rate <= MOST_RATE and 0 < arguments.seconds <= MOST_SECONDS and 0 < arguments.connections <= MOST_CONNECTIONS):
        parser.error(f"rate, seconds and connections must be positive and at most {MOST_RATE}, {MOST_SECONDS}, {MOST_CONNECTIONS}")
    with open(arguments.photo, "rb") as file:
        photo = file.read()
    notes, started = [], time.monotonic() + 0.1
    schedule = Schedule(arguments.rate, arguments.seconds)
    path = f"/v2/models/{arguments.model}/infer"
    senders = [Sender(arguments.url, path, photo, schedule, started, notes) for _ in range(arguments.connections)]
    for sender in senders:
        sender.start()
    print(f"{'SECOND':>6} {'OK':>5} {'OTHER':>5} {'P50':>8} {'P95':>8}  {'REPLICAS':8} {'QUEUE':12} REASON")
    for second in range(5, arguments.seconds + 5, 5):
        time.sleep(max(0.0, started + second - time.monotonic()))
        recent = [note for note in list(notes) if second - 5 <= note[0] < second]
        times = [milliseconds for _, milliseconds, status in recent if status == 200]
        replicas, queue, reason = service_state(arguments.namespace, arguments.model)
        print(f"{second:>6} {len(times):>5} {len(recent) - len(times):>5} {percentile(times, 0.5):>6.0f}ms {percentile(times, 0.95):>6.0f}ms"
              f"  {replicas:8} {queue:12} {reason}", flush=True)
    for sender in senders:
        sender.join(timeout=60)
    good = [milliseconds for _, milliseconds, status in notes if status == 200]
    print(f"\n{len(notes)} requests, {len(good)} answered, p50 {percentile(good, 0.5):.0f} ms, p95 {percentile(good, 0.95):.0f} ms, "
          f"p99 {percentile(good, 0.99):.0f} ms")


if __name__ == "__main__":
    main()
