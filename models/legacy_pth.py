"""Reads a PyTorch state dict saved in the format that came before the zip files, with numpy alone.

The file is a row of pickles followed by raw numbers:

    magic number, protocol version, system information      three pickles
    the state dict                                          one pickle: {name: tensor}
    the storages' keys, in the order that follows           one pickle: [key, ...]
    each storage                                            an int64 count, then that many values

A tensor in the state dict holds no numbers: it names a storage, an offset into it, a shape and strides.

A pickle can run any function that it names, so the reader answers to the handful of names that a state dict needs
and refuses the rest. Nothing from the file is executed.
"""

import collections
import dataclasses
import io
import pickle
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

STORAGE_TYPES = {
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
}


class FormatError(ValueError):
    """The file is not a state dict in the old format, or it is damaged."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """One block of numbers at the end of the file, and what it is made of."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _View:
    """A tensor before its numbers are read: a strided window on a storage. All four count elements, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(data: bytes) -> dict[str, np.ndarray]:
    """Returns every tensor of the state dict by its name, as an array of its own."""
    file = io.BytesIO(data)
    try:
        magic, version, _system = (_StateDictUnpickler(file).load() for _ in range(3))
        if magic != MAGIC_NUMBER or version != PROTOCOL_VERSION:
            raise FormatError("no state dict in the old PyTorch format: its magic number or version is another")
        tensors = _StateDictUnpickler(file).load()
        keys = _StateDictUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError) as error:
        raise FormatError(f"the state dict can't be read: {error}") from error

    if not isinstance(tensors, dict) or not all(isinstance(view, _View) for view in tensors.values()):
        raise FormatError("the file holds something else than a dict of tensors")
    declared = {view.storage.key: view.storage for view in tensors.values()}
    blocks = {key: _read_storage(file, declared, key) for key in keys}
    return {name: _array(name, view, blocks) for name, view in tensors.items()}


def read_file(path: Path) -> dict[str, np.ndarray]:
    """`read` on the file at `path`."""
    return read(path.read_bytes())


class _StateDictUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in a state dict and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # What follows the strides (requires_grad, hooks) matters to training only.
            return lambda storage, offset, shape, strides, *_rest: _View(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda view, *_rest: view
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no plain state dict needs")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, count, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it refers to a {kind!r} or to a view of a storage, which is not supported")
        return _Storage(key, dtype, count)


def _read_storage(file: BinaryIO, declared: dict[str, _Storage], key: str) -> np.ndarray:
    if key not in declared:
        raise FormatError(f"storage {key!r} belongs to no tensor, so its type is unknown")
    storage = declared[key]
    header = file.read(8)
    if len(header) != 8 or struct.unpack("<q", header)[0] != storage.count:
        raise FormatError(f"storage {key!r} should hold {storage.count} values: the file is damaged")
    block = file.read(storage.count * storage.dtype.itemsize)
    if len(block) != storage.count * storage.dtype.itemsize:
        raise FormatError(f"the file ends inside storage {key!r}: it is cut short")
    return np.frombuffer(block, storage.dtype)


def _array(name: str, view: _View, blocks: dict[str, np.ndarray]) -> np.ndarray:
    if view.storage.key not in blocks:
        raise FormatError(f"tensor {name!r} refers to storage {view.storage.key!r}, which the file does not hold")
    block = blocks[view.storage.key]
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    negative = min(view.offset, *view.shape, *view.strides, 0) < 0
    if negative or (last >= block.size and 0 not in view.shape):
        raise FormatError(f"tensor {name!r} reaches outside its storage")
    strides = [stride * block.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(block[view.offset :], view.shape, strides, writeable=False).copy()
