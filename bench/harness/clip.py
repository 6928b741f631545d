"""CLIP's image tower: images a second and processor time an image, over both protocols, of JPEG and of tensors."""

import os

import figures
import materials
import recipes
from measure import Pace
from pairs import median_of, ratio_of
from servers import Bare, Server, Setting

AT_ONCE = (1, 8, 32)
MAX_BATCH = 8
KINDS = {"jpeg": "JPEG, 640x480", "tensor": "float32 tensor, 602 kB"}


def run(context, folders):
    clip = materials.clip(folders["clip"], [materials.photo(seed) for seed in range(materials.SAMPLES)])
    for kind in KINDS:
        section(context, clip, kind)


def names(kind, peer, protocols):
    return {(protocol, count): f"clip/{kind}/{peer}/{protocol}/{count}" for protocol in protocols for count in AT_ONCE}


def bare(kind):
    """Sessions without a server, with what decodes."""
    return {"bare": "pillow", "bare-opencv": "opencv"} if kind == "jpeg" else {"bare": "pillow"}


def cells(kind):
    """By name of the server, then by protocol and concurrency. A session alone has no queue: at 32 it would do what it does at 8."""
    found = {
        name: {key: cell for key, cell in names(kind, name, ["none"]).items() if key[1] <= MAX_BATCH}
        for name in bare(kind)
    }
    return found | {
        peer.name: names(kind, peer.name, ["HTTP", "gRPC"] if peer.grpc else ["HTTP"]) for peer in recipes.ALL
    }


def section(context, clip, kind):
    setting = Setting(kind, threads=os.cpu_count(), max_batch=MAX_BATCH)
    others = [Bare(name, clip, setting, context.tools, decoder) for name, decoder in bare(kind).items()]
    others += [Server(peer, clip, setting, context.tools) for peer in recipes.ALL]
    wanted = cells(kind)
    ours = Server(recipes.FLOTILLA, clip, setting, context.tools)
    with context.running(ours, [cell for of_one in wanted.values() for cell in of_one.values()]) as ours:
        for server in others if ours else []:
            of_one = wanted[server.name]
            with context.running(server, of_one.values()) as other:
                for (protocol, count), cell in of_one.items() if other else []:
                    spoken = "Grpc" if protocol == "gRPC" else "Http1"
                    context.pair_up(cell, ours, other, spoken, Pace(count), context.seconds)


def tables(context):
    found = {}
    for kind in KINDS:
        rows = []
        measured = context.cells(f"clip/{kind}")
        for cell in [cell for of_one in cells(kind).values() for cell in of_one.values() if cell in measured]:
            _, _, name, protocol, count = cell.split("/")
            pairs = context.of(cell)
            rows.append(
                [
                    {"bare": "ONNX Runtime alone", "bare-opencv": "the same, OpenCV decodes"}.get(name, name),
                    protocol if protocol != "none" else "-",
                    count,
                    median_of(pairs, 1, lambda run: run.rate),
                    median_of(pairs, 0, lambda run: run.rate),
                    ratio_of(pairs, lambda run: run.rate),
                    median_of(pairs, 1, lambda run: run.cost * 1e3),
                    median_of(pairs, 0, lambda run: run.cost * 1e3),
                    ratio_of(pairs, lambda run: run.cost),
                ]
            )
        head = [
            "peer",
            "over",
            "at a time",
            "images/s",
            "Flotilla",
            "Flotilla/peer",
            "CPU ms/image",
            "Flotilla",
            "Flotilla/peer",
        ]
        if rows:
            found[f"clip-{kind}"] = figures.table(head, rows) + context.beside(f"clip/{kind}")
    return found
