"""A web app that is served by several worker processes, each of which follows the region by itself.

Made for every way in which workers come about: started one by one (`uvicorn --workers`, `gunicorn`), or forked from a
process that has imported this file and even connected already (`gunicorn --preload`).
"""

import json
import os
import socket

from edge_client import EdgeClient

edge = EdgeClient.connect(
    os.environ["NATS_URL"],
    trust=os.environ["TRUST"],
    region=os.environ["REGION"],
    local=os.environ.get("REDIS_URL"),
    # Unique among living processes. A forked child appends its own process id by itself.
    edge_id=f"{socket.gethostname().lower()}-{os.getpid()}",
)
rule = edge.model("rule", loader=lambda artifact: json.loads(artifact.read_bytes()))


async def app(scope, _receive, send):
    """ASGI, for uvicorn."""
    if scope["type"] != "http":
        return
    body = answer()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi(_environ, start_response):
    """WSGI, for gunicorn."""
    body = answer()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def answer() -> bytes:
    with rule.read() as m:
        told = {"worker": os.getpid(), "edge": edge.edge_id, "version": m.version, "guarantee": m.guarantee}
    return json.dumps(told).encode() + b"\n"
