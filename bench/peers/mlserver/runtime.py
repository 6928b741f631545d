"""MLServer: a runtime that calls ONNX Runtime, with its adaptive batching, in one process (`parallel_workers: 0`). V2 in JSON over
HTTP, which knows no binary data here; raw contents over gRPC."""

import asyncio
import concurrent.futures

import common
import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.model = common.Model()
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        return True

    async def predict(self, payload):
        (values,) = payload.inputs
        if common.KIND == "jpeg":
            bodies = (
                Base64Codec.decode_input(values)
                if values.parameters and values.parameters.content_type == "base64"
                else list(values.data)
            )
            rows = await asyncio.get_running_loop().run_in_executor(self.pool, self.model.all_rows, bodies)
        else:
            rows = NumpyCodec.decode_input(values)
        # A model of no cost is called where it stands; another would stop the server from reading meanwhile.
        if common.MAX_BATCH == 1:
            output = self.model.run(rows)
        else:
            output = await asyncio.get_running_loop().run_in_executor(self.pool, self.model.run, rows)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", np.asarray(output))])
