"""FastAPI at its best: one worker of uvicorn with uvloop and httptools; a request's body is the image or the raw values, and so is
the answer's; batches form while the session is busy, and nothing waits for more; one request at a time needs no batcher."""

import asyncio
import base64
import concurrent.futures
import contextlib
import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import common

model = common.Model()


class Batcher:
    """Rows that wait become one batch as soon as the session is idle."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.pool = concurrent.futures.ThreadPoolExecutor(1)

    async def run(self, rows):
        future = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((rows, future))
        return await future

    async def serve(self):
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.queue.get()]
            while len(batch) < common.MAX_BATCH and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            rows = np.concatenate([rows for rows, _ in batch]) if len(batch) > 1 else batch[0][0]
            outputs = await loop.run_in_executor(self.pool, model.run, rows)
            at = 0
            for rows, future in batch:
                future.set_result(outputs[at : at + len(rows)])
                at += len(rows)


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.batcher = Batcher()
    task = asyncio.create_task(app.state.batcher.serve())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready() -> Response:
    return Response()


@app.post("/infer")
async def infer(request: Request) -> Response:
    body = await request.body()
    rows = await run_in_threadpool(model.rows, body) if common.KIND == "jpeg" else model.rows(body)
    outputs = await app.state.batcher.run(rows) if common.MAX_BATCH > 1 else model.run(rows)
    return Response(outputs.tobytes(), media_type="application/octet-stream")


@app.post("/infer-json")
async def infer_json(request: Request):
    """Several images in base64, as the study's FastAPI server took them; one execution."""
    images = [base64.b64decode(image) for image in (await request.json())["images"]]
    rows = await run_in_threadpool(model.all_rows, images)
    return {"embeddings": (await app.state.batcher.run(rows)).tolist()}


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=common.PORT, loop="uvloop", http="httptools", log_level="warning", access_log=False
    )
