"""A small writer for ONNX graphs: collects nodes and weights under readable names, then checks and saves them."""

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Opset 17 is the first with LayerNormalization, and every runtime of interest reads it and IR version 8.
OPSET = 17
IR_VERSION = 8


class Graph:
    """One graph under construction. Each `add` returns the name of the value that its node makes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, values: np.ndarray) -> str:
        """Stores an array in the model, once, and returns its name."""
        if name in self.weights:
            raise ValueError(f"two weights are named {name!r}")
        self.weights[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def add(self, operator: str, *inputs: str, name: str, **attributes: object) -> str:
        """Adds one node, whose only output has the node's own name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def model(self, inputs: dict[str, list], outputs: dict[str, list]) -> onnx.ModelProto:
        """The whole as a checked model of float32 tensors. A dimension is a number, or a name where it varies."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            list(self.weights.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="flotilla",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def save(model: onnx.ModelProto, path: Path, external_data: bool = False) -> None:
    """Writes the model in one step, so that no reader ever sees half of it.

    With `external_data` the weights go to a file of the same name with `.data` at its end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        if external_data:
            data = path.name + ".data"
            onnx.save_model(model, draft, save_as_external_data=True, location=data, size_threshold=1024)
            os.replace(Path(scratch) / data, path.parent / data)
        else:
            draft.write_bytes(model.SerializeToString(deterministic=True))
        os.replace(draft, path)
