"""The bottle round the ship: the only place where a simulation changes the Python process around it, and changes it back."""

from __future__ import annotations

import gc
import logging
import random
import secrets
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pysyncobj.syncobj

from edge_client.protocol.envelope import Verifier
from tests.simulation.shell.loop import VirtualLoop


@contextmanager
def one_world(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """The only place where the process around is changed: the library's clock, chance, threads and what is logged."""
    chance = Random(f"secrets {seed}")
    before = pysyncobj.syncobj.monotonicTime, secrets.token_hex, secrets.token_bytes, threading.Thread.start
    hook, verify = sys.unraisablehook, Verifier.open
    opened: dict[bytes, bytes] = {}

    def open_once(self: Verifier, frame: bytes, *, bytes_max: int) -> bytes:
        """Everybody holds the same key, and most of the time went into verifying the same frame again."""
        payload = opened.get(frame)
        if payload is None:
            payload = opened[frame] = verify(self, frame, bytes_max=bytes_max)
        return payload

    def refuse(_: threading.Thread) -> None:
        raise AssertionError("a simulated process started a thread")

    pysyncobj.syncobj.monotonicTime = lambda: (loop.now_ns if loop.current is None else loop.current.local_ns()) / 1e9
    secrets.token_hex = lambda nbytes=32: chance.randbytes(nbytes or 32).hex()
    secrets.token_bytes = lambda nbytes=32: chance.randbytes(nbytes or 32)
    threading.Thread.start = refuse  # type: ignore[method-assign,assignment]
    sys.unraisablehook = lambda _: None  # the dead protest when they are buried
    Verifier.open = open_once  # type: ignore[method-assign]
    state = random.getstate()
    random.seed(seed)
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what the dead never awaited
            yield
            collect()
    finally:
        gc.enable()
        sys.unraisablehook = hook
        logging.disable(logging.NOTSET)
        random.setstate(state)
        Verifier.open = verify  # type: ignore[method-assign]
        pysyncobj.syncobj.monotonicTime, secrets.token_hex, secrets.token_bytes = before[:3]
        threading.Thread.start = before[3]  # type: ignore[method-assign]


def collect() -> None:
    while gc.collect() > 100:
        pass
