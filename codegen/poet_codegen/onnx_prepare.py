"""The ONNX model as training starts from it.

Done on the model itself, before import, so that the build folder's model.onnx and the trained model that is written
back have the same form.
"""

from __future__ import annotations

import onnx

from poet_codegen.onnx_batch_norm import rewrite_batch_norms
from poet_codegen.onnx_edit import ModelEditor
from poet_codegen.onnx_lora import add_adapters
from poet_codegen.onnx_own import own_vectors
from poet_codegen.recipe import BatchNorm
from poet_codegen.selection import parts_of


def prepare(proto: onnx.ModelProto, choice: BatchNorm | None, train: str = "") -> onnx.ModelProto:
    """A copy of the model: batch normalizations as `choice` trains them, every layer with vectors of its own.

    Where `train` (the option --train) asks for adapters, these are added.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    model = ModelEditor(result)
    rewrite_batch_norms(model, choice)
    own_vectors(model)
    add_adapters(model, parts_of(train))
    return result
