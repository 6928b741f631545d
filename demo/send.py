#!/usr/bin/env python3
"""Sends photos to an InferenceService and says what is on each, and which two show the same.

Usage: demo/send.py --url http://127.0.0.1:8000 [--model photo-embedder] [--photos FOLDER] [--check]

Nothing but Python's own library is needed: a request is a POST with the JPEG as its body, an answer is JSON. With
--check the program fails unless every photo got its label and the recompressed photo was found.
"""

import argparse
import http.client
import itertools
import json
import math
import os
import sys
import time
import urllib.parse
from pathlib import Path

CACHE = Path(os.environ.get("FLOTILLA_CACHE") or Path.home() / ".cache" / "flotilla")
LABELS = Path(__file__).resolve().parent.parent / "models" / "imagenet_labels.json"
TENSOR_BYTES = 3 * 224 * 224 * 4  # what a client would send that makes the tensor itself
DUPLICATE_COSINE = 0.9

# What --check expects, in ImageNet's words.
CAT = {"tabby", "tiger cat", "Egyptian cat"}
EXPECTED_LABELS = {
    "camera.jpg": {"tripod"},
    "chelsea.jpg": CAT,
    "chelsea-recompressed.jpg": CAT,
    "china.jpg": {"palace"},
    "coffee.jpg": {"espresso"},
    "flower.jpg": {"daisy"},  # a dahlia, and the daisy is its only relative among the classes
    "rocket.jpg": {"missile"},
}
EXPECTED_DUPLICATE = {"chelsea.jpg", "chelsea-recompressed.jpg"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service is (default %(default)s)")
    parser.add_argument("--model", default="photo-embedder", help="the model's name (default %(default)s)")
    parser.add_argument("--photos", type=Path, default=CACHE / "photos", help="folder of JPEGs (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="fail unless the answers are the expected ones")
    arguments = parser.parse_args()
    photos = sorted(path for path in arguments.photos.glob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    if len(photos) < 2:
        parser.error(f"{arguments.photos} holds {len(photos)} JPEGs; at least two are needed")

    server = http.client.HTTPConnection(urllib.parse.urlsplit(arguments.url).netloc, timeout=60)
    names = json.loads(LABELS.read_text())
    labels, embeddings, sent = {}, {}, 0
    print(f"{'PHOTO':26} {'SENT':>8} {'ANSWER IN':>10}  WHAT IS ON IT")
    for photo in photos:
        jpeg = photo.read_bytes()
        started = time.monotonic()
        outputs = infer(server, arguments.model, jpeg)
        milliseconds = (time.monotonic() - started) * 1000
        index, probability = most_likely(outputs["logits"])
        labels[photo.name], embeddings[photo.name] = names[index], outputs["embedding"]
        sent += len(jpeg)
        print(f"{photo.name:26} {len(jpeg) / 1000:5.0f} KB {milliseconds:7.0f} ms  {names[index]} ({probability:.0%})")

    tensors = len(photos) * TENSOR_BYTES
    print(f"\nsent {sent / 1000:.0f} KB of JPEG; as float32 tensors it would be {tensors / 1000:.0f} KB", end=", ")
    print(f"{tensors / sent:.1f} times as much")

    similarity = {pair: cosine(embeddings[pair[0]], embeddings[pair[1]]) for pair in itertools.combinations(embeddings, 2)}
    (best, similar), *others = sorted(similarity.items(), key=lambda item: -item[1])
    duplicate = set(best) if similar >= DUPLICATE_COSINE else set()
    print(f"{'duplicate found' if duplicate else 'no duplicate; closest'}: {best[0]} ~ {best[1]} ({similar:.2f})", end="")
    print(f"; the next closest pair: {' ~ '.join(others[0][0])} ({others[0][1]:.2f})" if others else "")
    return check(labels, duplicate) if arguments.check else 0


def infer(server: http.client.HTTPConnection, model: str, jpeg: bytes) -> dict[str, list[float]]:
    """One request: a JPEG there, the model's outputs back, by name."""
    server.request("POST", f"/v2/models/{model}/infer", body=jpeg, headers={"Content-Type": "image/jpeg"})
    response = server.getresponse()
    body = response.read()
    if response.status != 200:
        sys.exit(f"the server answered {response.status}: {body[:500].decode(errors='replace')}")
    return {output["name"]: output["data"] for output in json.loads(body)["outputs"]}


def most_likely(logits: list[float]) -> tuple[int, float]:
    """The class with the highest score, and its probability among all (softmax)."""
    best = max(range(len(logits)), key=logits.__getitem__)
    return best, 1 / sum(math.exp(score - logits[best]) for score in logits)


def cosine(a: list[float], b: list[float]) -> float:
    """How alike two embeddings are: 1 for the same, near 0 for strangers."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def check(labels: dict[str, str], duplicate: set[str]) -> int:
    """Compares with what is known about the demo's photos."""
    wrong = [f"{name}: no such photo was sent" for name in EXPECTED_LABELS if name not in labels]
    wrong += [
        f"{name}: {label!r} instead of {' or '.join(sorted(EXPECTED_LABELS[name]))}"
        for name, label in labels.items()
        if name in EXPECTED_LABELS and label not in EXPECTED_LABELS[name]
    ]
    if duplicate != EXPECTED_DUPLICATE:
        wrong.append(f"the duplicate was not found: {' ~ '.join(sorted(EXPECTED_DUPLICATE))}")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    if not wrong:
        print("all answers are the expected ones")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
