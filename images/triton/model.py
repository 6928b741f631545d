"""Stands in for Triton's onnxruntime backend, which no package has: a device that only waits, as the model's timer.json says."""

import json
import os
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        """Inputs and outputs, which the real backend reads from the model file."""
        tensor = {"data_type": "TYPE_FP32", "dims": [4]}
        config.add_input({"name": "input", **tensor})
        config.add_output({"name": "output", **tensor})
        return config

    def initialize(self, args):
        # args["model_repository"] is the model's own folder here.
        with open(os.path.join(args["model_repository"], args["model_version"], "timer.json")) as file:
            timer = json.load(file)
        self.per_image, self.per_batch = timer["alphaMicroseconds"] / 1e6, timer["tau0Microseconds"] / 1e6

    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        time.sleep(self.per_image * sum(map(len, images)) + self.per_batch)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("output", part)]) for part in images]
