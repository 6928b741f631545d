"""ONNX Runtime and nothing else: the session, on one thread of Python, and before it Pillow's or OpenCV's preprocessing.

Each line on standard input is an order, each line on standard output its answer; inputs are files with one body each.

    {"bodies": ["a.jpg"], "batch": 8, "seconds": 6}  ->  {"answered": 96, "seconds": 6.1}
"""

import json
import os
import pathlib
import sys
import time

import cv2
import numpy as np

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import common

OPENCV = os.environ.get("BENCH_DECODER") == "opencv"


def main():
    cv2.setNumThreads(1)
    model = common.Model()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        bodies = [pathlib.Path(file).read_bytes() for file in order["bodies"]]
        batch = [bodies[index % len(bodies)] for index in range(order["batch"])]
        answered, start = 0, time.monotonic()
        while time.monotonic() - start < order["seconds"]:
            # One after the other: side by side they cost the same, and the processors are the session's in the meantime.
            rows = [opencv(body) if OPENCV and common.KIND == "jpeg" else model.rows(body) for body in batch]
            answered += len(model.run(np.concatenate(rows)))
        print(json.dumps({"answered": answered, "seconds": time.monotonic() - start}), flush=True)


def opencv(data):
    """What is cheaper than Pillow, but other pixels: its cubic filter looks at four pixels whatever the scale."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    size = common.SIZE
    new = (size * width // height, size) if height <= width else (size, size * height // width)
    image = cv2.resize(image, new, interpolation=cv2.INTER_CUBIC)
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    planes = np.ascontiguousarray(image[top : top + size, left : left + size, ::-1].transpose(2, 0, 1))
    return (planes * common.SCALE[:, None, None] - common.SHIFT[:, None, None])[None]


main()
