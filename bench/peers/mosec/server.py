"""mosec: its Rust front, one process for the session, and two that decode images; bodies are the image or the raw values, and so are
answers."""

import os
import sys

import numpy as np
from mosec import Server, Worker

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import common

# Milliseconds that it waits for more requests, where it forms batches at all; 1 is the least.
WAIT = int(os.environ.get("BENCH_WAIT_MILLISECONDS", 5))


class Decode(Worker):
    def deserialize(self, data):
        return data

    def forward(self, data):
        return common.preprocess(data)


class Infer(Worker):
    def __init__(self):
        super().__init__()
        self.model = common.Model()

    def deserialize(self, data):
        return self.model.rows(data)

    def serialize(self, data):
        return data.tobytes()

    def forward(self, data):
        if common.MAX_BATCH == 1:
            return self.model.run(data)
        return list(self.model.run(np.concatenate(data) if len(data) > 1 else data[0])[:, None])


if __name__ == "__main__":
    server = Server()
    if common.KIND == "jpeg":
        server.append_worker(Decode, num=os.cpu_count())
    server.append_worker(
        Infer, num=1, max_batch_size=common.MAX_BATCH, max_wait_time=WAIT if common.MAX_BATCH > 1 else 0
    )
    server.run()
