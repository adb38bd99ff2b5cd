"""Made-up problems: small random ones for tests against the exact search, and a large training graph."""

from __future__ import annotations

import random
from dataclasses import replace

from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.net import build_net
from poet_solver.problem import Mode, Op, PageCost, Place, Problem, Tensor


def random_problem(rng: random.Random, ops: int, *, features: bool = False) -> Problem:
    """A random or training-like problem of one output an op, with integer costs.

    With `features`, some tensors live at home (RAM or storage), some parameters are updated in place or rewritten,
    some ops have a second mode, and there may be a deadline, idle power and a wear budget. The RAM budget lies between
    the largest op's working set and the keep-everything peak.
    """
    inputs, backward = _training_like(rng, ops) if rng.random() < 0.5 else _random_graph(rng, ops)
    high = rng.choice([6, 15, 40])
    tensors = [_tensor(rng, f"t{v}", high) for v in range(len(inputs))]
    built: list[Op] = []
    for v, reads in enumerate(inputs):
        mode = Mode(*_cost(rng, 10), tuple(reads), workspace_bytes=rng.choice([0, 0, 1, 2, 4]))
        built.append(Op(f"op{v}", (v,), (mode,), backward=backward[v]))
    if features:
        _add_parameters(rng, tensors, built, high)
        built = [_add_mode(rng, op, tensors) if rng.random() < 0.3 else op for op in built]
    idle = rng.choice([0.0, 1.0]) if features else 0.0
    problem = Problem("random", tuple(tensors), tuple(built), idle_power_w=idle)
    return _budgets(rng, problem, features)


def _cost(rng: random.Random, high: int) -> tuple[float, float]:
    return float(rng.randint(1, high)), float(rng.randint(1, high))


def _tensor(rng: random.Random, name: str, high: int) -> Tensor:
    size = rng.randint(1, 6)
    wear = float(size)
    return Tensor(name, size, PageCost(*_cost(rng, high)), PageCost(*_cost(rng, high), wear_bytes=wear))


def _random_graph(rng: random.Random, n: int) -> tuple[list[list[int]], list[bool]]:
    inputs: list[list[int]] = [[]]
    for v in range(1, n):
        count = min(rng.choice([1, 1, 2, 2, 3]), v)
        inputs.append(sorted(rng.sample(range(v), count)) if rng.random() > 0.1 else [])
    first_backward = rng.randint(n // 2, n)
    return inputs, [v >= first_backward for v in range(n)]


def _training_like(rng: random.Random, n: int) -> tuple[list[list[int]], list[bool]]:
    forward = max(2, n // 2)
    inputs: list[list[int]] = [[]]
    for v in range(1, forward):
        skip = {rng.randrange(v)} if v >= 2 and rng.random() < 0.4 else set()
        inputs.append(sorted({v - 1} | skip))
    gradient: dict[int, int] = {}
    for v in range(forward - 1, -1, -1):
        if len(inputs) >= n:
            break
        reads = {gradient[c] for c in range(forward) if v in inputs[c] and c in gradient}
        reads |= set(inputs[v]) if rng.random() < 0.6 and inputs[v] else {v}
        gradient[v] = len(inputs)
        inputs.append(sorted(reads))
    return inputs, [v >= forward for v in range(len(inputs))]


def _add_parameters(rng: random.Random, tensors: list[Tensor], ops: list[Op], high: int) -> None:
    """Give one or two early ops a parameter; some are updated after their last reader."""
    offset = 0
    for number in range(rng.randint(1, 2)):
        reader = rng.randrange(len(ops))
        home = rng.choice([Place.RAM, Place.STORAGE])
        kind = rng.choice(["frozen", "in place", "rewritten"])
        base = replace(_tensor(rng, f"w{number}", high), start=home)
        end = home if home is Place.RAM or rng.random() < 0.7 else Place.NONE
        at = offset if home is Place.RAM else None
        offset += base.size_bytes if home is Place.RAM else 0
        w = len(tensors)
        is_frozen = kind == "frozen" or (kind == "rewritten" and home is Place.RAM)
        tensors.append(replace(base, end=end if is_frozen else Place.NONE, home_offset=at))
        ops[reader] = _with_operand(ops[reader], w)
        if is_frozen:
            continue
        new = len(tensors)
        is_stored = home is Place.STORAGE
        tensors.append(
            replace(
                base,
                name=f"w{number}'",
                start=Place.NONE,
                end=home,
                home_offset=at,
                home_of=w if is_stored else None,
            )
        )
        gradient = ops[-1].outputs[0]
        mode = Mode(*_cost(rng, 5), tuple(sorted({w, gradient})), in_place=((w, new),) if kind == "in place" else ())
        ops.append(Op(f"update{number}", (new,), (mode,), repeatable=False, backward=True))


def _with_operand(op: Op, w: int) -> Op:
    return replace(op, modes=tuple(replace(m, resident=(*m.resident, w)) for m in op.modes))


def _add_mode(rng: random.Random, op: Op, tensors: list[Tensor]) -> Op:
    """A second mode: one operand streamed, or the output straight to storage, or an input overwritten."""
    mode = op.modes[0]
    choice = rng.randrange(3)
    energy = mode.energy_j + rng.randint(1, 8)
    if choice == 0 and mode.resident and not mode.in_place:
        v = rng.choice(mode.resident)
        rest = tuple(u for u in mode.resident if u != v)
        return replace(op, modes=(mode, replace(mode, energy_j=energy, resident=rest, streamed=(v,))))
    if choice == 1 and not mode.in_place:
        return replace(op, modes=(mode, replace(mode, energy_j=energy, outputs_to_storage=op.outputs)))
    same = [v for v in mode.resident if tensors[v].size_bytes == tensors[op.outputs[0]].size_bytes]
    if choice == 2 and same and op.repeatable:
        return replace(op, modes=(mode, replace(mode, in_place=((same[0], op.outputs[0]),))))
    return op


def _budgets(rng: random.Random, problem: Problem, features: bool) -> Problem:
    net = build_net(problem)
    floor = net.floor_bytes(net.largest_op())
    peak = max(floor, keep_everything_peak(problem))
    share = rng.choice([0.0, 0.0, 0.1, 0.2, 0.35, 0.5])
    problem = replace(problem, ram_bytes=int(floor + share * (peak - floor)))
    if features and rng.random() < 0.5:
        base = sum(op.modes[0].time_s for op in problem.ops)
        problem = replace(problem, deadline_s=base * rng.choice([1.2, 1.5, 2.0, 3.0]))
    return problem


def bert_training(
    layers: int, width: int = 1024, sequence: int = 128, heads: int = 16, flop_per_s: float = 2e8
) -> Problem:
    """A BERT encoder's training graph with weight gradients, one float32 tensor an op (no budgets).

    About 85 ops a layer, the weight gradients and updates among them; costs are those of the `m7sd` instances: 2e8
    FLOP/s, 2.5e-9 J/FLOP, SD card at 20 MB/s in and 10 MB/s out with 0.1 ms and 1 ms latency, 0.33 W.
    """
    graph = _Tape(flop_per_s)
    tokens = sequence * width
    x = graph.add("embed", [], tokens, 0)
    for i in range(layers):
        x = _bert_layer(graph, f"l{i}", x, tokens, width, sequence, heads)
    graph.add("loss", [x], 1, 5 * tokens)
    graph.backward()
    return Problem(f"bert{layers}", tuple(graph.tensors), tuple(graph.ops))


def _bert_layer(graph: _Tape, name: str, x: int, tokens: int, width: int, sequence: int, heads: int) -> int:
    scores = heads * sequence * sequence
    product = 2 * tokens * width
    square = width * width
    parts: list[int] = []
    for part in "qkv":
        linear = graph.add(f"{name}.{part}", [x], tokens, product, square)
        biased = graph.add(f"{name}.{part}.bias", [linear], tokens, tokens, width)
        parts.append(graph.add(f"{name}.{part}.heads", [biased], tokens, 0))
    q, k, v = parts
    raw = graph.add(f"{name}.scores", [q, k], scores, 2 * tokens * sequence)
    scaled = graph.add(f"{name}.scale", [raw], scores, scores)
    masked = graph.add(f"{name}.mask", [scaled], scores, scores)
    soft = graph.add(f"{name}.softmax", [masked], scores, 5 * scores)
    kept = graph.add(f"{name}.dropout", [soft], scores, scores)
    mixed = graph.add(f"{name}.mix", [kept, v], tokens, 2 * tokens * sequence)
    merged = graph.add(f"{name}.merge", [mixed], tokens, 0)
    out = graph.add(f"{name}.out", [merged], tokens, product, square)
    out = graph.add(f"{name}.out.bias", [out], tokens, tokens, width)
    x = graph.add(f"{name}.add1", [x, out], tokens, tokens)
    x = graph.add(f"{name}.norm1", [x], tokens, 8 * tokens, 2 * width)
    up = graph.add(f"{name}.up", [x], 4 * tokens, 4 * product, 4 * square)
    up = graph.add(f"{name}.up.bias", [up], 4 * tokens, 4 * tokens, 4 * width)
    act = graph.add(f"{name}.gelu", [up], 4 * tokens, 40 * tokens)
    down = graph.add(f"{name}.down", [act], tokens, 4 * product, 4 * square)
    down = graph.add(f"{name}.down.bias", [down], tokens, tokens, width)
    x = graph.add(f"{name}.add2", [x, down], tokens, tokens)
    return graph.add(f"{name}.norm2", [x], tokens, 8 * tokens, 2 * width)


class _Tape:
    """Forward ops as they are added, then one gradient op for every input and weight."""

    def __init__(self, flop_per_s: float) -> None:
        self.flop_per_s = flop_per_s
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.forward: list[tuple[str, list[int], int, float, int]] = []

    def add(self, name: str, inputs: list[int], values: int, flop: float, weights: int = 0) -> int:
        """A forward op with so many values of weights; returns its tensor."""
        self.forward.append((name, inputs, values, flop, weights))
        return self._op(name, inputs, values, flop, False)

    def _op(self, name: str, inputs: list[int], values: int, flop: float, backward: bool) -> int:
        size = 4 * values
        seconds_in, seconds_out = 1e-4 + size / 20e6, 1e-3 + size / 10e6
        v = len(self.tensors)
        self.tensors.append(
            Tensor(name, size, PageCost(seconds_in, 0.33 * seconds_in), PageCost(seconds_out, 0.33 * seconds_out))
        )
        mode = Mode(flop / self.flop_per_s, flop * 2.5e-9, tuple(sorted(set(inputs))))
        self.ops.append(Op(name, (v,), (mode,), backward=backward))
        return v

    def backward(self) -> None:
        """Gradient ops in reverse; gradients that meet are added."""
        gradient: dict[int, int] = {}
        last = len(self.forward) - 1
        for v in range(last, -1, -1):
            name, inputs, values, flop, weights = self.forward[v]
            above = [gradient[v]] if v in gradient else []
            if weights:
                delta = self._op(f"d{name}.w", [*above, *inputs], weights, flop, True)
                self._op(f"{name}.update", [delta], 1, 2 * weights, True)
            for u in inputs:
                wide = self.forward[u][2]
                reads = [*above, *inputs] if len(inputs) > 1 or flop > values else above
                made = self._op(f"d{name}.{u}", reads or [u], wide, max(flop, values), True)
                if u in gradient:
                    made = self._op(f"d{name}.{u}.sum", [gradient[u], made], wide, wide, True)
                gradient[u] = made
