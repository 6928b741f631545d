"""The study's five-way comparison in its shape: one backend behind each protocol, requests of 1 to 32 images one after the other, and
single images from several clients. It measured a GPU over a long line; here it is this machine's processor, so what compares is the
shape of the columns, not their values."""

import os

import exchange
import figures
import materials
import recipes
from measure import Pace
from servers import Peer, Server, Setting

BATCHES = (1, 4, 8, 16, 32)
AT_ONCE = (1, 8, 16)
# Of the seconds that a measurement has.
SHARE = 1 / 3
FASTAPI = Peer("FastAPI", recipes.script, exchange.json_images, "/ready")
TRITON = next(peer for peer in recipes.ALL if peer.name == "Triton")
# (name in the tables, server, kind, protocol)
WAYS = [
    ("FastAPI, HTTP, JPEG in base64", FASTAPI, "jpeg", "Http1"),
    ("Triton, HTTP, float32", TRITON, "tensor", "Http1"),
    ("Triton, gRPC, float32", TRITON, "tensor", "Grpc"),
    ("Flotilla, HTTP, float32", recipes.FLOTILLA, "tensor", "Http1"),
    ("Flotilla, gRPC, float32", recipes.FLOTILLA, "tensor", "Grpc"),
    ("Flotilla, HTTP, JPEG", recipes.FLOTILLA, "jpeg", "Http1"),
]
MODELS = {"mean": "a model of almost no cost, which a fast device resembles", "clip": "CLIP ViT-B/32 on this processor"}


def run(context, folders):
    photos = [materials.photo(seed, 320, 240) for seed in range(materials.SAMPLES)]
    for name in MODELS:
        if any(context.wants(cell) for cell in cells(name)):
            model = getattr(materials, name)(folders[name], photos)
            one_model(context, model, Setting("tensor", threads=os.cpu_count(), max_batch=max(BATCHES)))


def cells(model):
    return [f"five-way/{model}/{way}" for way, *_ in WAYS]


def one_model(context, model, setting):
    for way, peer, kind, protocol in WAYS:
        cell = f"five-way/{model.name}/{way}"
        server = Server(peer, model, Setting(kind, setting.threads, setting.max_batch), context.tools)
        with context.running(server, [cell]) as server:
            if server:
                serial = [(f"b{rows}", Pace(1), model.of(rows)) for rows in BATCHES]
                at_once = [(f"c{count}", Pace(count), model) for count in AT_ONCE]
                for column, pace, asked in serial + at_once:
                    seconds, warm_up = SHARE * context.seconds, SHARE * context.warm_up
                    run = context.measured(
                        f"{cell}/{column}", server, protocol, pace, seconds, warm_up, materials=asked
                    )
                    if run is None:
                        continue
                    context.runs.append((f"{cell}/{column}", 0, "ours" if peer is recipes.FLOTILLA else "peer", run))
                    context.say(
                        f"{cell}, {column}: {figures.number(run.rate)} images/s, p50 {figures.number(run.p50)} ms"
                    )


def measured(context):
    """By model, way and column."""
    names = [(name.split("/"), run) for name, _, _, run in context.runs if name.startswith("five-way/")]
    return {tuple(parts[1:]): run for parts, run in names}


def tables(context):
    found, runs = {}, measured(context)
    for name, what in MODELS.items():
        get = lambda way, column: runs.get((name, way, column))
        ways = [way for way, *_ in WAYS if any(get(way, f"b{rows}") for rows in BATCHES)]
        if not ways:
            continue
        value = lambda way, column, pick: pick(run) if (run := get(way, column)) else None
        parts = [
            ("One request after the other: p50 in ms", [f"b{rows}" for rows in BATCHES], lambda run: run.p50),
            ("The same in images/s", [f"b{rows}" for rows in BATCHES], lambda run: run.rate),
            ("Single images, so many at a time: images/s", [f"c{count}" for count in AT_ONCE], lambda run: run.rate),
        ]
        text = f"With {what}:\n\n"
        for title, columns, pick in parts:
            rows = [[way, *(value(way, column, pick) for column in columns)] for way in ways]
            text += figures.table([title, *columns], rows) + "\n"
        gains = []
        for server in ("Triton", "Flotilla"):
            both = [[get(f"{server}, {over}, float32", f"b{rows}") for over in ("HTTP", "gRPC")] for rows in BATCHES]
            gains.append([server, *(http.p50 / grpc.p50 if http and grpc else None for http, grpc in both)])
        text += figures.table(["gRPC's gain over HTTP, by p50", *(f"b{rows}" for rows in BATCHES)], gains)
        found[f"five-way-{name}"] = text + context.beside(f"five-way/{name}")
    return found
