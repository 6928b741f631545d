"""Preprocessing for CLIP by Flotilla, Pillow and OpenCV: processor time for an image, and how far the results are apart.

usage: bench/preprocessing (which makes the environment, builds the program and pins this one to a core)

All run on one core, one after the other within a round, because the machine's speed drifts; processor time, not the clock.
"""

import io
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import onnxruntime
from PIL import Image

PROGRAM, CACHE, ROUNDS = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
SIZE = 224
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
# One turn of one method, in seconds.
TURN = 0.4


def main():
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        photos = sorted((CACHE / "photos").glob("*.jpg"))
        files = generated(pathlib.Path(folder), photos)
        methods = {
            "Flotilla": lambda file: server.rate(file, {"preset": "Clip"}),
            "Flotilla, decoder Scaled": lambda file: server.rate(file, {"preset": "Clip", "decoder": "Scaled"}),
            "Pillow": lambda file: rate(pillow, file),
            "Pillow, draft": lambda file: rate(pillow_draft, file),
            "OpenCV, cubic": lambda file: rate(opencv, file),
            "OpenCV, area": lambda file: rate(opencv_area, file),
        }
        rates(files, methods)
        tensors = {
            "Flotilla": lambda file: server.tensor(file, {"preset": "Clip"}),
            "Flotilla, decoder Scaled": lambda file: server.tensor(file, {"preset": "Clip", "decoder": "Scaled"}),
            "Pillow, draft": lambda file: pillow_draft(file.read_bytes()),
            "OpenCV, cubic": lambda file: opencv(file.read_bytes()),
            "OpenCV, area": lambda file: opencv_area(file.read_bytes()),
        }
        differences({"generated": files, "photos": photos}, tensors)


class Server:
    """The program that has Flotilla's preprocessing."""

    def __enter__(self):
        self.process = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def rate(self, file, options):
        answer = self.order(file=str(file), size=SIZE, options=options, seconds=TURN)
        return answer["images"] / answer["cpuSeconds"]

    def tensor(self, file, options):
        with tempfile.NamedTemporaryFile() as out:
            self.order(file=str(file), size=SIZE, options=options, out=out.name)
            return np.fromfile(out.name, np.float32).reshape(1, 3, SIZE, SIZE)


def generated(folder, photos):
    """A photo in both sizes with a sensor's noise, which is what makes a photo's file large."""
    random = np.random.default_rng(1)
    files = []
    for width, height in [(640, 480), (4000, 3000)]:
        photo = Image.open(next(file for file in photos if file.stem == "coffee")).convert("RGB")
        pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels = pixels + random.normal(0, 6, pixels.shape)
        file = folder / f"{width}x{height}.jpg"
        Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8)).save(file, quality=90)
        files.append(file)
    return files


def pillow(data, size=None):
    image = Image.open(io.BytesIO(data))
    box = image.draft(None, (2 * SIZE, 2 * SIZE))[1] if size else None
    width, height = size or image.size
    image = image.convert("RGB")
    short = min(width, height)
    new = (int(SIZE * width / height), SIZE) if short == height else (SIZE, int(SIZE * height / width))
    image = image.resize(new, Image.Resampling.BICUBIC, box=box)
    left, top = (new[0] - SIZE) // 2, (new[1] - SIZE) // 2
    return normalised(np.asarray(image.crop((left, top, left + SIZE, top + SIZE))))


def pillow_draft(data):
    return pillow(data, Image.open(io.BytesIO(data)).size)


def opencv(data, interpolation=cv2.INTER_CUBIC):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = image.shape[:2]
    new = (SIZE * width // height, SIZE) if height <= width else (SIZE, SIZE * height // width)
    image = cv2.resize(image, new, interpolation=interpolation)
    left, top = (new[0] - SIZE) // 2, (new[1] - SIZE) // 2
    return normalised(image[top : top + SIZE, left : left + SIZE, ::-1])


def opencv_area(data):
    return opencv(data, cv2.INTER_AREA)


def normalised(pixels):
    return ((pixels.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION).transpose(2, 0, 1)[None]


def rate(method, file):
    data = file.read_bytes()
    images, clock, start = 0, time.monotonic(), time.process_time()
    while images == 0 or time.monotonic() - clock < TURN:
        np.ascontiguousarray(method(data))
        images += 1
    return images / (time.process_time() - start)


def rates(files, methods):
    found = {(name, file): [] for name in methods for file in files}
    for _ in range(ROUNDS):
        for file in files:
            for name, method in methods.items():
                found[name, file].append(method(file))
    print(f"\nImages per second of processor time, one core: median (10th to 90th percentile of {ROUNDS} rounds);")
    print("times Pillow's rate in the same round: median (percentiles).\n")
    print("| |" + "".join(f" {file.stem}, {file.stat().st_size >> 10} KiB | x Pillow |" for file in files))
    print("| --- |" + " --- | --- |" * len(files))
    for name in methods:
        cells = []
        for file in files:
            ratios = [ours / theirs for ours, theirs in zip(found[name, file], found["Pillow", file])]
            cells += [spread(found[name, file], 1), spread(ratios, 2)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def spread(values, places):
    low, *_, high = statistics.quantiles(values, n=10) if len(values) > 1 else values * 2
    return f"{statistics.median(values):.{places}f} ({low:.{places}f} to {high:.{places}f})"


def differences(groups, tensors):
    session = onnxruntime.InferenceSession(CACHE / "models" / "clip-tiny" / "1" / "model.onnx")
    name = session.get_inputs()[0].name
    print("\nDifference from Pillow: largest and mean of all samples, in grey levels of 255; lowest cosine of the embedding.\n")
    print("| |" + "".join(f" {len(files)} {group}: largest | mean | cosine |" for group, files in groups.items()))
    print("| --- |" + " --- | --- | --- |" * len(groups))

    def embedded(tensor):
        vector = session.run(None, {name: tensor.astype(np.float32)})[0].ravel()
        return vector / np.linalg.norm(vector)

    for method, tensor in tensors.items():
        cells = []
        for files in groups.values():
            largest, means, cosines = 0.0, [], []
            for file in files:
                expected, found = pillow(file.read_bytes()), tensor(file)
                levels = np.abs(found - expected) * DEVIATION[:, None, None] * 255
                largest = max(largest, levels.max())
                means.append(levels.mean())
                cosines.append(float(embedded(expected) @ embedded(found)))
            cells += [f"{largest:.1f}", f"{np.mean(means):.3f}", f"{min(cosines):.6f}"]
        print(f"| {method} | " + " | ".join(cells) + " |", flush=True)


main()
