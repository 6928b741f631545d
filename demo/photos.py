"""Makes the demo's photos in $FLOTILLA_CACHE/photos: six pictures out of two Python packages, and a worse copy of one.

Usage: the Python of models/build, with this file. A second run does nothing.

`chelsea-recompressed.jpg` is `chelsea.jpg` at 80 % of its size and at a low JPEG quality: no byte of it is the same, and
yet it is the same photo, which an embedding can tell.
"""

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import packages

FOLDER = packages.CACHE / "photos"

# What is a JPEG stays as it is; what is a PNG becomes a JPEG, as a camera's photos are.
PHOTOS = {
    "camera.jpg": (packages.SCIKIT_IMAGE, "skimage/data/camera.png"),
    "chelsea.jpg": (packages.SCIKIT_IMAGE, "skimage/data/chelsea.png"),
    "china.jpg": (packages.SCIKIT_LEARN, "sklearn/datasets/images/china.jpg"),
    "coffee.jpg": (packages.SCIKIT_IMAGE, "skimage/data/coffee.png"),
    "flower.jpg": (packages.SCIKIT_LEARN, "sklearn/datasets/images/flower.jpg"),
    "rocket.jpg": (packages.SCIKIT_IMAGE, "skimage/data/rocket.jpg"),
}
ORIGINAL, DUPLICATE = "chelsea.jpg", "chelsea-recompressed.jpg"


def make(folder: Path = FOLDER) -> list[Path]:
    """Writes the photos that are missing and returns all, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (package, member) in PHOTOS.items():
        if not (folder / name).exists():
            data = packages.member(package, member)
            _write(folder / name, data if member.endswith(".jpg") else _jpeg(Image.open(io.BytesIO(data)), quality=95))
    if not (folder / DUPLICATE).exists():
        photo = Image.open(folder / ORIGINAL)
        smaller = photo.resize((photo.width * 4 // 5, photo.height * 4 // 5), Image.Resampling.BICUBIC)
        _write(folder / DUPLICATE, _jpeg(smaller, quality=60))
    return sorted(folder / name for name in [*PHOTOS, DUPLICATE])


def _jpeg(photo: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    photo.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """In one step: an interrupted run leaves no half photo behind."""
    draft = path.with_suffix(".part")
    draft.write_bytes(data)
    draft.rename(path)


if __name__ == "__main__":
    for made in make():
        print(made)
