"""A camera loop: one thread takes pictures, some look at them, and none waits for the network. `camera_loop.py SECONDS`"""

import json
import os
import queue
import random
import signal
import sys
import threading
import time

from edge_client import Change, EdgeClient, EdgeError, Reading

LOOKERS = 2
FRAMES_WAITING_MAX = 4


class Frame:
    """What a camera gives; here it is a number."""

    def __init__(self) -> None:
        self.taken_at = time.monotonic()
        self.brightness = random.random()


def load(artifact):
    return json.loads(artifact.read_bytes())


def look(model: dict, frame: Frame) -> str:
    return "bright" if frame.brightness > model["threshold"] else "dark"


def capture(frames: "queue.Queue[Frame]", stop: threading.Event) -> None:
    """The newest frame wins: when lookers are slow, the oldest one waiting is dropped."""
    while not stop.wait(1 / 30):
        try:
            frames.put_nowait(Frame())
        except queue.Full:
            frames.get_nowait()
            frames.put_nowait(Frame())


def work(detector, frames: "queue.Queue[Frame]", stop: threading.Event, tally: dict[str, int]) -> None:
    while not stop.is_set():
        try:
            frame = frames.get(timeout=0.1)
        except queue.Empty:
            continue
        try:
            reading: Reading = detector.read()  # memory alone, from any thread; never waits
        except EdgeError:
            tally["safe state"] = tally.get("safe state", 0) + 1  # older than the policy allows: stop the belt
            continue
        with reading as m:
            answer = look(m.value, frame)
            m.report(latency_ms=(time.monotonic() - frame.taken_at) * 1_000, label=answer)
        key = f"{m.version} {m.guarantee}"
        tally[key] = tally.get(key, 0) + 1


def changed(change: Change) -> None:
    """Called in the client's own thread: hand on what takes long."""
    print(f"serving {change.current} instead of {change.previous}", flush=True)


def main() -> None:
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    with EdgeClient.connect(
        os.environ["NATS_URL"],
        trust=os.environ["TRUST"],
        region=os.environ["REGION"],
        local=os.environ["REDIS_URL"],  # so that the belt starts in the morning even if the region is away
        edge_id="belt-1",
        site="dock-3",
        labels={"camera": "new"},
    ) as edge:
        detector = edge.model("brightness", loader=load)  # returns when `read` has something to give
        detector.on_change(changed)
        print(f"serving {detector.read().version}", flush=True)
        frames: queue.Queue[Frame] = queue.Queue(FRAMES_WAITING_MAX)
        tallies: list[dict[str, int]] = [{} for _ in range(LOOKERS)]
        threads = [threading.Thread(target=capture, args=(frames, stop))]
        threads += [threading.Thread(target=work, args=(detector, frames, stop, tally)) for tally in tallies]
        for thread in threads:
            thread.start()
        stop.wait(float(sys.argv[1]) if len(sys.argv) > 1 else None)
        stop.set()
        for thread in threads:
            thread.join()
    for key in sorted({key for tally in tallies for key in tally}):
        print(key, "frames:", sum(tally.get(key, 0) for tally in tallies))


if __name__ == "__main__":
    main()
