"""LitServe: its own batching, one worker, one API server, `fast_queue` (ZeroMQ). It reads requests as JSON, so images and values
travel in base64; answers are lists."""

import base64
import os
import sys

import litserve

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import common

# How long it waits for more requests, where it forms batches at all.
WAIT_SECONDS = float(os.environ.get("BENCH_WAIT_SECONDS", 0.005))


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = common.Model()

    def decode_request(self, request):
        return base64.b64decode(request["data"])

    # Without batches there are no lists.
    def predict(self, body):
        return self.model.run(self.model.rows(body))

    def encode_response(self, output):
        return {"output": output.tolist()}


class Batched(Api):
    def batch(self, bodies):
        return self.model.all_rows(bodies)

    def predict(self, rows):
        return self.model.run(rows)

    def unbatch(self, output):
        return list(output[:, None])


if __name__ == "__main__":
    api = Batched(max_batch_size=common.MAX_BATCH, batch_timeout=WAIT_SECONDS) if common.MAX_BATCH > 1 else Api()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=120)
    server.run(
        host="127.0.0.1",
        port=common.PORT,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
