"""Write a tiny classifier as ONNX: four features in, one of three labels out. `python tiny_onnx.py OUT.onnx [SEED]`."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
weights = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ],
    "tiny",
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
    [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3]),
    ],
    [numpy_helper.from_array(weights, "weights")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model)
onnx.save(model, out)
