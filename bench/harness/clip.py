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


def section(context, clip, kind):
    setting = Setting(kind, threads=os.cpu_count(), max_batch=MAX_BATCH)
    bare = [("bare", "pillow")] + ([("bare-opencv", "opencv")] if kind == "jpeg" else [])
    others = [
        (Bare(name, clip, setting, context.tools, decoder), names(kind, name, ["none"])) for name, decoder in bare
    ]
    for peer in recipes.ALL:
        server = Server(peer, clip, setting, context.tools)
        others.append((server, names(kind, peer.name, ["HTTP", "gRPC"] if peer.grpc else ["HTTP"])))
    ours = Server(recipes.FLOTILLA, clip, setting, context.tools)
    with context.running(ours, [cell for _, cells in others for cell in cells.values()]) as ours:
        for server, cells in others if ours else []:
            with context.running(server, cells.values()) as other:
                for (protocol, count), cell in cells.items() if other else []:
                    # A session alone has no queue: at 32 it would execute the same batches as at 8.
                    if protocol != "none" or count <= MAX_BATCH:
                        context.pair_up(
                            cell, ours, other, "Grpc" if protocol == "gRPC" else "Http1", Pace(count), context.seconds
                        )


def tables(context):
    found = {}
    for kind in KINDS:
        rows = []
        for cell in context.cells(f"clip/{kind}"):
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
