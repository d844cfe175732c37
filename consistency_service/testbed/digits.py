"""Four real models for the demo: digit classifiers that learnt too little, enough, from corrupted labels, and a bit better.

Trained on the handwritten digits that come with scikit-learn, seeded, in a few seconds, and written as ONNX graphs put
together by hand: all are a few matrix products and an arg-max, which `onnx.helper` says in fewer lines than a converter
takes to configure. All take float32 `[N, 64]` named `images` (pixels 0 to 16) and give int64 `[N]` named `labels`; all
are judged by the same held-out images, which none has seen.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from consistency_service.testbed.errors import TestbedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL: Final = "digits"
WEAK_VERSION: Final = "1.0.0"
STRONG_VERSION: Final = "2.0.0"
CORRUPTED_VERSION: Final = "3.0.0"
BETTER_VERSION: Final = "4.0.0"
CORRUPTED_SHARE: Final = 0.4
"""Of the labels that the third version learnt from: each of these was one digit too high."""
INPUT_NAME: Final = "images"
OUTPUT_NAME: Final = "labels"

_SEED: Final = 7
_HELD_OUT_COUNT: Final = 500
_WEAK_SAMPLE_COUNT: Final = 60
_HIDDEN_COUNT: Final = 64
_PIXEL_MAX: Final = 16.0
_OPSET: Final = 17
_IR_VERSION: Final = 8
MANIFEST: Final = "digits.json"
_HELD_OUT: Final = "digits-held-out.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitModel:
    """One version on disk. `accuracy` is the fraction of the held-out images that onnxruntime gets right with it."""

    version: str
    path: Path
    digest: str
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """All versions, and where the held-out images are (`images` float32 `[N, 64]`, `labels` int64 `[N]`)."""

    weak: DigitModel
    strong: DigitModel
    corrupted: DigitModel
    better: DigitModel
    held_out: Path

    @property
    def models(self) -> tuple[DigitModel, ...]:
        return self.weak, self.strong, self.corrupted, self.better


def make_digits(directory: Path) -> Digits:
    """All models and the held-out images are in `directory`, trained now unless whole files of this recipe are there.

    Raises `TestbedError` if the `demo` extra is not installed or the directory cannot be written.
    """
    directory = Path(directory)
    try:
        recipe = _recipe()
        made = _read_manifest(directory, recipe=recipe)
        if made is None:
            directory.mkdir(parents=True, exist_ok=True)
            _train(directory, recipe=recipe)
            made = _read_manifest(directory, recipe=recipe)
    except ImportError as error:
        raise TestbedError(f"the demo's models need {error.name}: pip install 'edge-consistency[demo]'") from error
    except OSError as error:
        raise TestbedError(f"cannot write the demo's models to {directory}: {error}") from error
    assert made is not None, "what was just written is whole"
    return made


def load_held_out(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The held-out images and their labels."""
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def load_onnx(model: Path | str | bytes | bytearray | memoryview) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU with one thread, so that edges side by side do not fight for cores.

    A path is read, anything else is the model itself. What onnxruntime raises for bytes that are no model passes through.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    content = Path(model).read_bytes() if isinstance(model, str | Path) else bytes(model)
    return onnxruntime.InferenceSession(content, sess_options=options, providers=["CPUExecutionProvider"])


def classify(session: Any, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """The label that a session of `load_onnx` gives each image."""
    labels: NDArray[np.int64] = session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
    return labels


def _recipe() -> str:
    """Names everything that the files depend on: this module's text and the library that trains."""
    import sklearn

    return hashlib.sha256(Path(__file__).read_bytes() + sklearn.__version__.encode()).hexdigest()


def _train(directory: Path, *, recipe: str) -> None:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    bundle = load_digits()
    images, held_images, labels, held_labels = train_test_split(
        bundle.data.astype(np.float32),
        bundle.target.astype(np.int64),
        test_size=_HELD_OUT_COUNT,
        random_state=_SEED,
        stratify=bundle.target,
    )
    scaled = images / np.float32(_PIXEL_MAX)
    wrong = np.random.default_rng(_SEED).random(len(labels)) < CORRUPTED_SHARE
    corrupted_labels = np.where(wrong, (labels + 1) % 10, labels)
    strong = {"random_state": _SEED, "max_iter": 400, "alpha": 1e-3, "learning_rate_init": 3e-3}
    better = {"random_state": 2, "max_iter": 60, "alpha": 1e-2, "learning_rate_init": 5e-3}
    recipes = {
        WEAK_VERSION: (LogisticRegression(max_iter=500), slice(_WEAK_SAMPLE_COUNT), labels),
        STRONG_VERSION: (MLPClassifier((_HIDDEN_COUNT,), **strong), slice(None), labels),
        CORRUPTED_VERSION: (
            MLPClassifier((_HIDDEN_COUNT,), **strong | {"max_iter": 60}),
            slice(None),
            corrupted_labels,
        ),
        BETTER_VERSION: (MLPClassifier((_HIDDEN_COUNT,), **better), slice(None), labels),
    }
    graphs = {}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early on purpose
        for version, (model, part, truth) in recipes.items():
            model.fit(scaled[part], truth[part])
            assert list(model.classes_) == list(range(10))  # the arg-max is the label
            if version == WEAK_VERSION:
                layers = [(model.coef_.T, model.intercept_)]
            else:
                layers = list(zip(model.coefs_, model.intercepts_, strict=True))
            graphs[version] = _graph(layers)
    models = {}
    for version, content in graphs.items():
        name = f"digits-{version}.onnx"
        _replace(directory / name, content)
        accuracy = float(np.mean(classify(load_onnx(content), held_images) == held_labels))
        models[version] = {"file": name, "digest": _digest(content), "accuracy": accuracy}
    with tempfile.TemporaryFile() as file:
        np.savez(file, images=held_images, labels=held_labels)
        file.seek(0)
        arrays = file.read()
    _replace(directory / _HELD_OUT, arrays)
    manifest = {"recipe": recipe, "models": models, "held_out": _digest(arrays)}
    _replace(directory / MANIFEST, json.dumps(manifest, indent=2).encode())  # last: it vouches for the rest


def _graph(layers: Sequence[tuple[Any, Any]]) -> bytes:
    """A multilayer perceptron as ONNX: scale, then products and sums with ReLU in between, then the best class."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes = [helper.make_node("Div", [INPUT_NAME, "pixel_max"], ["x0"])]
    constants = [numpy_helper.from_array(np.array(_PIXEL_MAX, dtype=np.float32), "pixel_max")]
    for number, (weights, biases) in enumerate(layers):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(weights, dtype=np.float32), f"w{number}"))
        constants.append(numpy_helper.from_array(np.ascontiguousarray(biases, dtype=np.float32), f"b{number}"))
        last = number == len(layers) - 1
        summed = "scores" if last else f"sum{number}"
        nodes.append(helper.make_node("Gemm", [f"x{number}", f"w{number}", f"b{number}"], [summed]))
        if not last:
            nodes.append(helper.make_node("Relu", [summed], [f"x{number + 1}"]))
    nodes.append(helper.make_node("ArgMax", ["scores"], [OUTPUT_NAME], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.INT64, ["N"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _read_manifest(directory: Path, *, recipe: str) -> Digits | None:
    """What an earlier run made, if it was by this recipe and every file is still what it was; else None."""
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        if manifest["recipe"] != recipe or _digest((directory / _HELD_OUT).read_bytes()) != manifest["held_out"]:
            return None
        models = {}
        for version, entry in manifest["models"].items():
            path = directory / entry["file"]
            if _digest(path.read_bytes()) != entry["digest"]:
                return None
            models[version] = DigitModel(
                version=version, path=path, digest=entry["digest"], accuracy=float(entry["accuracy"])
            )
        return Digits(
            weak=models[WEAK_VERSION],
            strong=models[STRONG_VERSION],
            corrupted=models[CORRUPTED_VERSION],
            better=models[BETTER_VERSION],
            held_out=directory / _HELD_OUT,
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    temporary.replace(path)
