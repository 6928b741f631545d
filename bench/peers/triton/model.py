"""A model of Triton's python backend that calls ONNX Runtime: the wheel that Triton's binary comes from has no other backend. Triton's
front, scheduler and batcher are its own; the way to another process and back is what its C++ backend would not have."""

import os
import sys

# Python in the backend's process starts isolated.
sys.path[:0] = os.environ["BENCH_PATH"].split(":")
import common
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, arguments):
        self.model = common.Model()

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        if common.KIND == "jpeg":
            rows = self.model.all_rows([image for images in inputs for image in images.ravel()])
        else:
            rows = inputs[0] if len(inputs) == 1 else common.np.concatenate(inputs)
        outputs = self.model.run(rows)
        responses, at = [], 0
        for values in inputs:
            part = pb_utils.Tensor("output", outputs[at : at + len(values)])
            responses.append(pb_utils.InferenceResponse([part]))
            at += len(values)
        return responses
