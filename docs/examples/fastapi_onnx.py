"""A FastAPI app that answers with whatever version of an ONNX model is active in the region."""

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

from edge_client import Artifact, AsyncEdgeClient, EdgeError

STALE_MS_MAX = 10_000


def load(artifact: Artifact) -> onnxruntime.InferenceSession:
    """Called in a worker thread, with bytes whose digest has just been verified."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(artifact.read_bytes(), options)


def warm_up(session: onnxruntime.InferenceSession) -> None:
    """The first run allocates; afterwards the version is ready, and no request pays for that."""
    session.run(["label"], {"features": np.zeros((1, 4), np.float32)})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with await AsyncEdgeClient.connect(
        os.environ["NATS_URL"],
        trust=os.environ["TRUST"],
        region=os.environ["REGION"],
        local=os.environ.get("REDIS_URL"),
        edge_id=os.environ.get("EDGE_ID", f"{socket.gethostname().lower()}-{os.getpid()}"),
    ) as edge:
        app.state.edge = edge
        app.state.model = edge.model("tiny", loader=load, warm_up=warm_up)
        yield  # serves at once; /readyz says whether it should be sent requests


app = FastAPI(lifespan=lifespan)


class Sample(BaseModel):
    features: list[float] = Field(min_length=4, max_length=4)


@app.post("/predict")
def predict(sample: Sample, request: Request, response: Response) -> dict[str, object]:
    """A plain function: FastAPI runs it in a thread, and `read` is for any thread."""
    try:
        reading = request.app.state.model.read()
    except EdgeError as error:  # not loaded yet, or older than the model's policy allows
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
    with reading as m:  # this version stays usable until the block ends, whatever is activated meanwhile
        began = time.perf_counter()
        label, scores = m.value.run(["label", "scores"], {"features": np.array([sample.features], np.float32)})
        m.report(latency_ms=(time.perf_counter() - began) * 1_000, score=float(scores.max()), label=str(int(label[0])))
    response.headers["X-Model-Version"] = m.version
    return {"label": int(label[0]), "version": m.version, "guarantee": m.guarantee, "bound_ms": m.staleness_bound_ms}


@app.get("/readyz")
def readyz(request: Request) -> dict[str, object]:
    """Ready while the answer is known to be at most ten seconds old."""
    try:
        m = request.app.state.model.read()
    except EdgeError as error:
        raise HTTPException(503, str(error)) from None
    if m.staleness_bound_ms is None or m.staleness_bound_ms > STALE_MS_MAX:
        raise HTTPException(503, f"{m.guarantee}, {m.staleness_bound_ms} ms old")
    return {"version": m.version, "guarantee": m.guarantee}
