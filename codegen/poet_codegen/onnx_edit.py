"""Rewriting an ONNX model: one place that keeps constants, their readers and the old rules about them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_Array = np.ndarray[Any, Any]
_FIRST_IR_WITH_INITIALIZERS_BESIDE_INPUTS = 4


class ModelEditor:
    """A model that is rewritten in place: who reads a value, and what its constants are."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = proto.graph

    def readers(self) -> Counter[str]:
        """How often each value is read, as an output of the model included."""
        names = (name for node in self.graph.node for name in node.input)
        return Counter((*names, *(output.name for output in self.graph.output)))

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for inputs and initializers."""
        return next((node for node in self.graph.node if name in node.output), None)

    def array(self, name: str) -> _Array | None:
        """The numbers of an initializer, of a Constant, or of what an Identity passes on; None for others."""
        for initializer in self.graph.initializer:
            if initializer.name == name:
                return numpy_helper.to_array(initializer)
        maker = self.maker(name)
        if maker is not None and maker.op_type == "Identity":
            return self.array(maker.input[0])
        if maker is not None and maker.op_type == "Constant" and maker.attribute[0].name == "value":
            return numpy_helper.to_array(maker.attribute[0].t)
        return None

    def arrays(self, names: Iterable[str]) -> list[_Array] | None:
        """`array` of each name, or None when one has none."""
        found = [array for name in names if (array := self.array(name)) is not None]
        return found if len(found) == len(list(names)) else None

    def hold(self, wish: str, array: _Array) -> str:
        """Declare an initializer, in place of an old one that nobody reads any more; returns its name."""
        name = self._free_name(wish)
        self.declare(name, array)
        return name

    def declare(self, name: str, array: _Array) -> None:
        """Declare an initializer of a name that nothing else has."""
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        if self.proto.ir_version < _FIRST_IR_WITH_INITIALIZERS_BESIDE_INPUTS:
            self.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))

    def hold_node(self, wish: str, array: _Array) -> str:
        """The same as a Constant: what exporters write as a node is a number of the source, or computed from such."""
        name = self._free_name(wish)
        value = numpy_helper.from_array(np.ascontiguousarray(array, np.float32))
        self.graph.node.insert(0, helper.make_node("Constant", [], [name], value=value))
        return name

    def _free_name(self, wish: str) -> str:
        taken = {name for node in self.graph.node for name in (*node.input, *node.output)}
        taken |= {value.name for value in (*self.graph.input, *self.graph.initializer)}
        name, number = wish, 2
        while name in taken:
            name, number = f"{wish}.{number}", number + 1
        return name

    def drop_unread(self, names: Iterable[str]) -> None:
        """Remove those of these constants that nobody reads."""
        read = self.readers()
        for name in {name for name in names if name and not read[name]}:
            for values in (self.graph.initializer, self.graph.input):
                for value in [value for value in values if value.name == name]:
                    values.remove(value)
            maker = self.maker(name)
            if maker is not None:
                self.graph.node.remove(maker)
                self.drop_unread(maker.input)
