"""What there is to measure, by name."""

import clip
import five_way
import identity
import recipes
import serialisation

SECTIONS = {"identity": identity, "clip": clip, "serialisation": serialisation, "five-way": five_way}
# What there is time for where there is little: every peer, over HTTP with images and at all rates, and Triton over gRPC.
ESSENTIAL = [
    "identity/*/HTTP/paced/*",
    "identity/*/HTTP/most/32",
    "identity/Triton/gRPC/*",
    "clip/jpeg/*/HTTP/8",
    "clip/jpeg/bare*/none/8",
    "clip/tensor/Triton/gRPC/8",
    "serialisation",
    "five-way/mean",
]


def cells():
    """The names of all cells."""
    names = [cell for peer in recipes.OF_NO_COST for cell in identity.cells(peer)]
    names += [cell for kind in clip.KINDS for of_one in clip.cells(kind).values() for cell in of_one.values()]
    names += [f"serialisation/{batch}" for batch in serialisation.BATCHES]
    return names + [cell for model in five_way.MODELS for cell in five_way.cells(model)]


def wanted(context, section):
    return any(context.wants(cell) for cell in cells() if cell.split("/")[0] == section)
