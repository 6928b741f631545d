"""One measurement: load on one server, and what its processes ran in the meantime."""

import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import time

import accounting
from servers import Bare, Failed

# Over how many connections gRPC's calls go: a client's channel each.
MOST_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class Pace:
    """Closed: so many in flight. Open: so many a second."""

    in_flight: int
    per_second: float = 0

    def __str__(self):
        return f"{self.per_second:g}/s" if self.per_second else f"{self.in_flight} at a time"

    def plan(self):
        if self.per_second:
            return {"Open": {"perSecond": self.per_second, "inFlight": self.in_flight}}
        return {"Closed": {"inFlight": self.in_flight}}


@dataclasses.dataclass
class Run:
    """What came of one measurement. Latencies are in milliseconds."""

    server: str
    protocol: str
    pace: str
    answered: int
    rows: int
    seconds: float
    cpu_seconds: float
    p50: float = 0
    p90: float = 0
    p99: float = 0
    late_p50: float = 0
    # Of the load itself: near 1, it was the limit.
    load_share: float = 0
    errors: str = ""
    # What the other server of the pair ran meanwhile, which should be nothing.
    idle_cpu_seconds: float = 0
    load_average: float = 0
    at: float = 0

    @property
    def rate(self):
        """Rows a second."""
        return self.rows / self.seconds

    @property
    def cost(self):
        """Processor seconds for a row."""
        return self.cpu_seconds / self.rows if self.rows else float("inf")


def measure(server, protocol, pace, seconds, warm_up, tools, other=None, cores=(), materials=None):
    """Runs the load, and reads the kernel's accounting while nothing is in flight, before and after."""
    if isinstance(server, Bare):
        return measure_bare(server, pace, seconds, warm_up, other)
    materials = materials or server.materials
    exchange = server.exchange(protocol, materials)
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-plan-") as folder:
        plan = written(pathlib.Path(folder), server, exchange, pace, seconds, warm_up, materials)
        process = subprocess.Popen(
            [tools.load, str(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        try:
            warmed = report(process, server)
            before, others = server.cpu(), other.cpu() if other else {}
            process.stdin.write("go\n")
            process.stdin.flush()
            measured = report(process, server)
            after, others_after = server.cpu(), other.cpu() if other else {}
        finally:
            process.kill()
            process.wait()
    rows = len(materials.samples(server.setting.kind)[0].expected)
    errors = {**warmed["errors"], **measured["errors"]}
    return Run(
        server=server.name,
        protocol="gRPC" if protocol == "Grpc" else "HTTP",
        pace=str(pace),
        answered=measured["answered"],
        rows=measured["answered"] * rows,
        seconds=measured["seconds"],
        cpu_seconds=accounting.spent(before, after),
        p50=measured["latency"]["p50"] / 1e3,
        p90=measured["latency"]["p90"] / 1e3,
        p99=measured["latency"]["p99"] / 1e3,
        late_p50=measured["late"]["p50"] / 1e3,
        load_share=measured["cpuSeconds"] / measured["seconds"],
        errors="; ".join(f"{count} x {error}" for error, count in errors.items()),
        idle_cpu_seconds=accounting.spent(others, others_after),
        load_average=os.getloadavg()[0],
        at=time.time(),
    )


def measure_bare(server, pace, seconds, warm_up, other):
    """A bare session executes what a server would at this concurrency."""
    batch = min(pace.in_flight, server.setting.max_batch)
    server.run(batch, min(warm_up, 1))
    before, others = server.cpu(), other.cpu() if other else {}
    answer = server.run(batch, seconds)
    after, others_after = server.cpu(), other.cpu() if other else {}
    return Run(
        server=server.name,
        protocol="none",
        pace=str(pace),
        answered=answer["answered"],
        rows=answer["answered"],
        seconds=answer["seconds"],
        cpu_seconds=accounting.spent(before, after),
        idle_cpu_seconds=accounting.spent(others, others_after),
        load_average=os.getloadavg()[0],
        at=time.time(),
    )


def report(process, server):
    line = process.stdout.readline()
    if not line:
        raise Failed(f"the load on {server.name} could not be run; its message is above")
    return json.loads(line)


def written(folder, server, exchange, pace, seconds, warm_up, materials):
    """The plan for `flotilla-load`, with the bodies beside it."""
    requests = []
    for index, (body, sample) in enumerate(zip(exchange.bodies, materials.samples(server.setting.kind))):
        (folder / f"{index}.body").write_bytes(body)
        (folder / f"{index}.expected").write_bytes(sample.expected.astype("<f4").tobytes())
        requests.append({"body": str(folder / f"{index}.body"), "expected": str(folder / f"{index}.expected")})
    plan = {
        "address": server.address(exchange.protocol),
        "protocol": exchange.protocol,
        "path": exchange.path,
        "headers": exchange.headers,
        "requests": requests,
        "answer": exchange.answer,
        "tolerance": materials.tolerance,
        "pace": pace.plan(),
        "connections": min(pace.in_flight, MOST_CHANNELS),
        "seconds": seconds,
        "warmUpSeconds": warm_up,
    }
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return file
