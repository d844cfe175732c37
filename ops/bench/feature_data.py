"""What features look like: real embeddings and profiles, and tracks as a tracker over cameras makes them.

The embeddings are what networks trained on scikit-learn's handwritten digits say of digits that they never saw; the profiles
are its wine samples; nothing is downloaded. Tracks are simulated: nobody publishes those of a gateway.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from consistency_service.testbed.digits import load_held_out, make_digits

FRAMES_PER_S = 30
CAMERAS = 4
ENTRIES_PER_S = 833
"""One gateway's share of ten million entries a minute over 200 gateways: seven objects before each of four cameras."""


def embeddings() -> dict[str, list[NDArray[np.float32]]]:
    """Rows of float32, by what made them."""
    with tempfile.TemporaryDirectory() as directory, threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early on purpose
        made = make_digits(Path(directory))
        images, _ = load_held_out(made.held_out)
        graph = onnx.load_model(made.strong.path).graph
        weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        hidden = np.maximum(images / 16 @ weights["w0"] + weights["b0"], 0)
        bundle = load_digits()
        learnt, labels = bundle.data[:-500] / 16, bundle.target[:-500]
        wide = MLPClassifier((256,), activation="tanh", random_state=7, max_iter=60).fit(learnt, labels)
        dense = np.tanh(bundle.data[-500:] / 16 @ wide.coefs_[0] + wide.intercepts_[0])
        components = PCA(64, random_state=7).fit(learnt).transform(bundle.data[-500:] / 16)
    return {
        "64 of ReLU": list(np.ascontiguousarray(hidden, np.float32)),
        "64 of PCA": list(np.ascontiguousarray(components, np.float32)),
        "256 of tanh": list(np.ascontiguousarray(dense, np.float32)),
    }


def records() -> dict[str, list[dict[str, Any]]]:
    """Structured values, by kind."""
    wine = load_wine()
    profiles = [
        {"class": int(target), **dict(zip(wine.feature_names, map(float, row), strict=True))}
        for row, target in zip(wine.data, wine.target, strict=True)
    ]
    rng = random.Random(7)
    counters = [
        {
            "camera": place % 40,
            "in": rng.randrange(5_000),
            "out": rng.randrange(5_000),
            "minute": 29_916_000 + place // 40,
        }
        for place in range(500)
    ]
    return {
        "detections": [write.value for write in tracks(seconds=1)][:500],
        "detections, fractions": [write.value for write in tracks(seconds=1, fractions=True)][:500],
        "counters": counters,
        "profiles": profiles,
    }


class Write(NamedTuple):
    """One feature as the tracker gives it."""

    at_ms: int
    camera: str
    frame: int
    track: int
    value: Any


@dataclass(slots=True)
class _Object:
    """Something that crosses a camera's view at a steady pace, seen with some noise."""

    track: int
    label: str
    position: tuple[float, float]
    pace: tuple[float, float]
    size: tuple[float, float]
    first_frame: int
    frames: int


def tracks(*, seconds: int, fractions: bool = False, seed: int = 7) -> Iterator[Write]:
    """All writes of one gateway, in order: each object of each frame of each camera. `fractions`: boxes as float32."""
    rng = random.Random(seed)
    number = 0
    seen: dict[int, list[_Object]] = {camera: [] for camera in range(CAMERAS)}
    per_camera = round(ENTRIES_PER_S / FRAMES_PER_S / CAMERAS)
    for frame in range(seconds * FRAMES_PER_S):
        for camera, objects in seen.items():
            objects[:] = [each for each in objects if frame < each.first_frame + each.frames]
            while len(objects) < per_camera:
                number += 1
                objects.append(_entering(rng, number=number, frame=frame))
            for each in objects:
                value = _observed(each, rng, frame=frame, fractions=fractions)
                yield Write(frame * 1_000 // FRAMES_PER_S, f"cam-{camera:02d}", frame, each.track, value)


def _entering(rng: random.Random, *, number: int, frame: int) -> _Object:
    return _Object(
        track=number,
        label=rng.choices(["person", "car", "bicycle", "truck"], [5, 3, 1, 1])[0],
        position=(rng.uniform(0, 1_800), rng.uniform(0, 1_000)),
        pace=(rng.gauss(0, 6), rng.gauss(0, 3)),
        size=(rng.uniform(30, 300), rng.uniform(30, 400)),
        first_frame=frame,
        frames=rng.randrange(30, 240),
    )


def _observed(each: _Object, rng: random.Random, *, frame: int, fractions: bool) -> dict[str, Any]:
    age = frame - each.first_frame
    box = [start + pace * age + rng.gauss(0, 1) for start, pace in zip(each.position, each.pace, strict=True)]
    box += [side + rng.gauss(0, 1) for side in each.size]
    score = float(np.float32(min(0.99, max(0.3, rng.gauss(0.85, 0.08)))))
    return {
        "label": each.label,
        "box": [float(np.float32(edge)) for edge in box] if fractions else [max(0, round(edge)) for edge in box],
        "score": score if fractions else round(score, 3),
        "pace": [round(pace, 2) for pace in each.pace],
        "frame": frame,
        "hits": age + 1,
    }
