"""PyTriton: a function in this process behind Triton's binary, with its dynamic batcher and no delay; V2's binary data."""

import os
import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import common

model = common.Model()
IMAGES = common.KIND == "jpeg"


@batch
def infer(input):  # the tensor's name
    return {"output": model.run(model.all_rows(list(input.ravel())) if IMAGES else input)}


if __name__ == "__main__":
    output = model.session.get_outputs()[0].shape[1:]
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=common.PORT,
        grpc_address="127.0.0.1",
        grpc_port=common.GRPC_PORT,
        metrics_port=common.METRICS_PORT,
        log_verbose=0,
    )
    with Triton(config=config, workspace=os.path.join(os.environ["BENCH_FOLDER"], "workspace")) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[
                Tensor(
                    name="input", dtype=bytes if IMAGES else np.float32, shape=(1,) if IMAGES else tuple(model.shape)
                )
            ],
            outputs=[Tensor(name="output", dtype=np.float32, shape=tuple(output))],
            config=ModelConfig(max_batch_size=common.MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
            strict=False,
        )
        triton.serve()
