"""The study's table: a request of float32 images as JSON and as binary data, its size, and the time to write and to read it; and what
reading costs the server."""

import json
import os
import time

import exchange
import figures
import materials
import numpy as np
import recipes
from measure import Pace
from servers import Server, Setting

BATCHES = (1, 4, 8, 16, 32)
# Of one measurement of one size.
LEAST_SECONDS, LEAST_TURNS = 0.3, 3
# Of the seconds that a measurement has.
SHARE = 1 / 3


def run(context, folders):
    """Times of a client, in Python as the study's was; the server's are processor time, from a model that only takes a mean."""
    model = materials.mean(folders["mean"], [materials.photo(seed) for seed in range(materials.SAMPLES)])
    setting = Setting("tensor", threads=1, max_batch=max(BATCHES))
    found = {}
    cells = {batch: f"serialisation/{batch}" for batch in BATCHES}
    with context.running(Server(recipes.FLOTILLA, model, setting, context.tools), cells.values()) as server:
        for batch, cell in cells.items() if server else []:
            if not context.wants(cell):
                continue
            context.say(cell)
            found[batch] = {**client(batch), **reading(context, server, model.of(batch))}
    context.serialisation = found


def client(batch):
    values = np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), np.float32)
    shape = list(values.shape)
    write_json = lambda: exchange.v2_json("input", "FP32", shape, values.ravel().tolist())
    write_binary = lambda: exchange.v2_binary("input", "FP32", shape, values.tobytes())[0]
    as_json, as_binary = write_json(), write_binary()
    length = len(as_binary) - values.nbytes
    read_json = lambda: np.array(json.loads(as_json)["inputs"][0]["data"], np.float32).reshape(shape)

    def read_binary():
        head = json.loads(as_binary[:length])
        return np.frombuffer(as_binary, np.float32, offset=length).reshape(head["inputs"][0]["shape"])

    assert np.array_equal(read_json(), values) and np.array_equal(read_binary(), values)
    return {
        "bytes": (len(as_json), len(as_binary)),
        "write": (milliseconds(write_json), milliseconds(write_binary)),
        "read": (milliseconds(read_json), milliseconds(read_binary)),
    }


def milliseconds(call):
    """The median of some turns."""
    turns, start = [], time.perf_counter()
    while len(turns) < LEAST_TURNS or time.perf_counter() - start < LEAST_SECONDS:
        began = time.perf_counter()
        call()
        turns.append(time.perf_counter() - began)
    return 1e3 * figures.quantile(sorted(turns), 0.5)


class Json:
    """The server asked in JSON."""

    def __init__(self, server):
        self.server = server

    def __getattr__(self, name):
        return getattr(self.server, name)

    def exchange(self, _protocol, model):
        bodies = [
            exchange.v2_json("input", "FP32", list(one.values.shape), one.values.ravel().tolist())
            for one in model.made[:1]
        ]
        headers = {"Content-Type": "application/json"}
        return exchange.Exchange("/v2/models/model/infer", bodies, {"Json": "/outputs/0/data"}, headers)


def reading(context, server, model):
    """Milliseconds of processor time that a request costs the server in all, with the mean of its values."""
    costs = []
    for asked in (Json(server), server):
        seconds = SHARE * context.seconds
        run = context.measured("serialisation", asked, "Http1", Pace(1), seconds, seconds / 4, materials=model)
        if run is None:
            return {"server": (None, None)}
        costs.append(1e3 * run.cpu_seconds / run.answered)
    return {"server": tuple(costs)}


def tables(context):
    found = context.serialisation
    if not found:
        return {}
    head = [
        "images",
        "JSON, kB",
        "binary, kB",
        "write: JSON, ms",
        "binary, ms",
        "JSON slower by",
        "read: JSON, ms",
        "binary, ms",
        "Flotilla: JSON, CPU ms",
        "binary, CPU ms",
    ]
    rows = []
    for batch, values in found.items():
        slower = values["write"][0] / values["write"][1]
        sizes = [size / 1000 for size in values["bytes"]]
        rows.append([str(batch), *sizes, *values["write"], slower, *values["read"], *values["server"]])
    note = f"\n{time.strftime('%d %B %Y', time.gmtime()).lstrip('0')}, medians; the load average was {os.getloadavg()[0]:.1f}.\n"
    return {"serialisation": figures.table(head, rows) + note}
