"""Reverse-mode autodiff: forward graph -> training graph with loss, gradients and updates as nodes (DESIGN §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from poet_codegen.errors import ModelError
from poet_codegen.graph import AttrValue, Graph, GraphBuilder, Kind, Node, Role, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.loss import loss_op
from poet_codegen.ops.optimizers import rule_of, state_of, update_attrs
from poet_codegen.ops.update import Update
from poet_codegen.recipe import DEFAULT_RECIPE, Loss, Recipe
from poet_codegen.selection import select_trainable
from poet_codegen.training_form import training_form
from poet_codegen.verify import verify


class Tape:
    """What gradient rules see: which tensors want a gradient, and where to put it."""

    def __init__(self, builder: GraphBuilder, wanted: frozenset[str]) -> None:
        self._builder = builder
        self._wanted = wanted
        self._label = ""
        self.grads: dict[str, str] = {}

    def wants(self, tensor: str) -> bool:
        """Whether some trainable parameter needs the gradient of this tensor."""
        return tensor in self._wanted

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._builder.tensors[tensor].shape

    def at(self, label: str) -> None:
        """Label of the forward node whose gradients come next."""
        self._label = label

    def add_gradient(self, of: str, op: str, inputs: tuple[str, ...], attrs: Mapping[str, AttrValue]) -> None:
        """Append a node that computes a contribution to the gradient of `of`."""
        self.accumulate(of, self.node(f"d.{of}", op, inputs, attrs))

    def node(self, wish: str, op: str, inputs: tuple[str, ...], attrs: Mapping[str, AttrValue]) -> str:
        """Append a node of one output that is called `wish` or alike; returns the output's name."""
        node = Node(op, inputs, (), f"{self._label}", Role.BACKWARD, attrs)
        tensors = tuple(self._builder.tensors[name] for name in inputs)
        (shape,) = registry.get(op).shapes(tensors, node)
        name = self._builder.tensor(Tensor(wish, shape))
        self._builder.node(replace(node, outputs=(name,)))
        return name

    def accumulate(self, of: str, gradient: str) -> None:
        """Add a contribution to the gradient of `of`; the first one is the gradient itself."""
        if of not in self.grads:
            self.grads[of] = gradient
            return
        both = (self.grads[of], gradient)
        total = self._builder.tensor(Tensor(f"d.{of}", self.shape(of)))
        self._builder.node(Node("Add", both, (total,), f"sum of gradients of {of}", Role.BACKWARD))
        self.grads[of] = total


def build_training_graph(forward: Graph, trainable: frozenset[str], recipe: Recipe = DEFAULT_RECIPE) -> Graph:
    """Append loss, backward pass and updates to a forward graph, as `recipe` says.

    `trainable` names the parameters that learn; gradients nobody needs are not built. Nodes of one layer stand in the
    order input gradient, then updates, so that the gradient of the layer's output can die there. A final Softmax is
    part of cross entropy (poet_codegen.head).
    """
    unknown = trainable - {p.name for p in forward.of_kind(Kind.PARAM)}
    if unknown:
        raise ModelError(f"There is no parameter {min(unknown)!r} to train. See `poet plan --help` on --train.")
    undecayed = select_trainable(forward, recipe.no_decay, "--no-decay") if recipe.no_decay else frozenset()
    forward, running_updates = training_form(loss_op(recipe.loss).head(forward), recipe)
    builder = GraphBuilder(forward.name, forward)
    answer = forward.outputs[0]
    gradient = _add_loss(builder, answer, recipe.loss)
    for node in running_updates:
        builder.node(replace(node, inputs=(*node.inputs, gradient)))
    wanted = reachable_from(forward, trainable)
    if answer not in wanted:
        raise ModelError("No parameter to train reaches the model's output. Choose others with --train.")
    rate = builder.tensor(Tensor("learning_rate", (1,), kind=Kind.LEARNING_RATE))
    first_reader = _first_readers(forward)

    def update(index: int, tape: Tape) -> None:
        node = forward.nodes[index]
        for name in dict.fromkeys(node.inputs):
            # A parameter's gradient is complete once its first reader (last in reverse) was differentiated.
            if name in trainable and name in tape.grads and first_reader[name] == index:
                attrs = update_attrs(recipe, name not in undecayed)
                _add_update(builder, recipe, name, tape.grads[name], rate, attrs, node.label)

    differentiate(builder, forward, wanted, {answer: gradient}, update)
    loss = builder.graph([]).one(Kind.LOSS)
    graph = builder.graph([loss.name])
    verify(graph)
    return graph


def differentiate(
    builder: GraphBuilder,
    forward: Graph,
    wanted: frozenset[str],
    seeds: Mapping[str, str],
    after_node: Callable[[int, Tape], None] | None = None,
) -> Tape:
    """Append the backward pass to `builder`, which holds the forward graph.

    `wanted` names the tensors that need a gradient (reachable_from), `seeds` gives those of the outputs. `after_node`
    is called with the position of each forward node once it was differentiated, last node first.
    """
    tape = Tape(builder, wanted)
    tape.grads.update(seeds)
    for index in range(len(forward.nodes) - 1, -1, -1):
        node = forward.nodes[index]
        if wanted.intersection(node.outputs) and any(name in tape.grads for name in node.outputs):
            tape.at(node.label)
            registry.get(node.op).gradient(tape, node, [tape.grads.get(name, "") for name in node.outputs])
        if after_node:
            after_node(index, tape)
    return tape


def _add_loss(builder: GraphBuilder, answer: str, kind: Loss) -> str:
    op = loss_op(kind)
    output = builder.tensors[answer]
    label = builder.tensor(op.label(output))
    loss = builder.tensor(Tensor("loss", (1,), kind=Kind.LOSS))
    gradient = builder.tensor(Tensor(f"d.{answer}", output.shape))
    builder.node(Node(op.name, (answer, label), (loss, gradient), "loss", Role.LOSS))
    return gradient


def _add_update(
    builder: GraphBuilder,
    recipe: Recipe,
    param: str,
    gradient: str,
    rate: str,
    attrs: Mapping[str, AttrValue],
    label: str,
) -> None:
    like = builder.tensors[param]
    states = [builder.tensor(replace(like, name=f"{param}.{name}", kind=Kind.STATE)) for name in state_of(recipe)]
    old = (param, *states)
    new = tuple(builder.tensor(Tensor(f"{name}.new", like.shape, kind=Kind.UPDATED, updates=name)) for name in old)
    rule = rule_of(recipe)
    step = (builder.step(),) if rule.reads_step or recipe.accumulate > 1 else ()
    builder.node(Node(rule.op, (*old, gradient, rate, *step), new, label, Role.UPDATE, attrs))


def reachable_from(forward: Graph, trainable: frozenset[str]) -> frozenset[str]:
    """The tensors that depend on `trainable`, those included: they need gradients."""
    wanted = set(trainable)
    for node in forward.nodes:
        if wanted.intersection(node.inputs):
            wanted.update(node.outputs)
    return frozenset(wanted)


def _first_readers(forward: Graph) -> dict[str, int]:
    first: dict[str, int] = {}
    for index, node in enumerate(forward.nodes):
        for name in node.inputs:
            first.setdefault(name, index)
    return first


def fuse_updates(graph: Graph) -> Graph:
    """Merge each gradient that only an update reads into one op that never stores it."""
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    makers = {output: node for node in graph.nodes for output in node.outputs}
    gone: set[str] = set()
    updated: set[str] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        rule = registry.get(node.op)
        gradient = rule.gradient_of(node) if isinstance(rule, Update) else ""
        maker = makers.get(gradient)
        fused = rule.fused_with(maker, node) if maker and isinstance(rule, Update) else None
        # Fused, the gradient is computed here: a parameter it reads must still be the old one.
        if maker and fused and readers[gradient] == 1 and not updated.intersection(maker.inputs):
            nodes.remove(maker)
            nodes.append(fused)
            gone.add(gradient)
        else:
            nodes.append(node)
        updated.update(old for name in node.outputs if (old := graph.tensors[name].updates) is not None)
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in gone}
    result = replace(graph, tensors=tensors, nodes=tuple(nodes))
    verify(result)
    return result


def inference_graph(forward: Graph, state: Iterable[Tensor] = ()) -> Graph:
    """The forward graph with its answer as a static buffer that the host reads.

    `state` is what training keeps between steps beside the parameters; inference leaves it alone.
    Raises ModelError unless the model has one output, and a batch axis in each input.
    """
    for sample in forward.of_kind(Kind.INPUT):
        if not sample.shape:
            raise ModelError(f"Input {sample.name!r} is a single number without an axis. Export it with a batch axis.")
    if len(forward.outputs) != 1:
        raise ModelError(
            f"The model must have exactly one output, which the loss reads, but has {len(forward.outputs)}. "
            "Export it with one."
        )
    answer = forward.tensors[forward.outputs[0]]
    tensors = dict(forward.tensors) | {tensor.name: tensor for tensor in state}
    if answer.kind is not Kind.VALUE:
        raise ModelError(f"The model's output {answer.name!r} is not computed by any node. Check the model.")
    tensors[answer.name] = replace(answer, kind=Kind.OUTPUT)
    return replace(forward, tensors=tensors)
