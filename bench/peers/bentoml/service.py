"""BentoML: one worker, its adaptive batching with room enough in its latency that nothing is refused; images and values in base64 in
JSON; no access log and no metrics, which cost it time."""

import base64
import sys

import bentoml

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import common

service = bentoml.service(
    name="model",
    workers=1,
    traffic={"timeout": 120, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)


class Base:
    def __init__(self):
        self.model = common.Model()


if common.MAX_BATCH > 1:

    @service
    class Service(Base):
        @bentoml.api(batchable=True, max_batch_size=common.MAX_BATCH, max_latency_ms=60_000)
        def infer(self, data: list[str]) -> list[list[float]]:
            return self.model.run(self.model.all_rows([base64.b64decode(one) for one in data])).tolist()

else:

    @service
    class Service(Base):
        @bentoml.api
        async def infer(self, data: list[str]) -> list[list[float]]:
            return self.model.run(self.model.all_rows([base64.b64decode(one) for one in data])).tolist()
