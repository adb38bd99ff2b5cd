"""The forward pass as a training step runs it: what there differs from inference, such as batch normalization."""

from __future__ import annotations

from dataclasses import replace

from poet_codegen.graph import Graph, GraphBuilder, Node
from poet_codegen.ops import registry
from poet_codegen.recipe import Recipe
from poet_codegen.verify import verify


class TrainingForm:
    """What ops see of it: the forward pass being built, the recipe, and updates that must wait for the loss."""

    def __init__(self, forward: Graph, recipe: Recipe) -> None:
        self.recipe = recipe
        self.builder = GraphBuilder(forward.name, replace(forward, nodes=()))
        self.after_loss: list[Node] = []
        """Updates by what the forward pass computes. Each gets the gradient of the model's answer as its last input,
        so that none runs before the loss is known: a step whose loss is not finite changes nothing."""


def training_form(forward: Graph, recipe: Recipe) -> tuple[Graph, tuple[Node, ...]]:
    """(forward pass of a training step, updates that get the answer's gradient as last input). Raises ModelError.

    Tensors of the inference graph keep their names and their order.
    """
    form = TrainingForm(forward, recipe)
    for node in forward.nodes:
        registry.get(node.op).for_training(form, node)
    graph = form.builder.graph(forward.outputs)
    verify(graph)
    return graph, tuple(form.after_loss)
