"""The optimizers: what each does to one element of a parameter, as data.

A new one is one entry here, and a name in poet_codegen.recipe. The formulas are those of torch.optim. In the C text, g
is the gradient of the element at {at}, w the parameter; a state has its name; other names in braces are attributes of
the update node as numbers, one_minus_... what they lack to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from poet_codegen.graph import AttrValue
from poet_codegen.recipe import Optimizer, Recipe


@dataclass(frozen=True)
class Rule:
    """An optimizer's update of one parameter."""

    op: str
    """Name of the update op."""
    stem: str
    """Part of the C name."""
    title: str
    """For comments."""
    lines: tuple[str, ...]
    """C statements for one element."""
    setup: tuple[str, ...] = ("const float rate = *learning_rate;",)
    """C declarations once a call; t is the number of this update, from 1."""
    state: tuple[str, ...] = ()
    """What it keeps between steps, a tensor of the parameter's shape each; they start at 0."""
    constants: tuple[str, ...] = ()
    """Fields of the recipe that are numbers in the text."""
    reads_step: bool = False
    """Whether the setup uses t."""
    cycles: tuple[str, ...] = ()
    """Rows of the cycle table that an element costs beyond SGD's multiply-add."""
    is_sparse: bool = False
    """An element without gradient stays as it is; not so with state or weight decay."""


SGD = Rule(
    op="Sgd",
    stem="update",
    title="w -= learning_rate * dw",
    lines=("w[{at}] -= rate * g;",),
    is_sparse=True,
)

# PyTorch's momentum is the gradient itself at the first step: momentum * 0 + g is the same.
MOMENTUM = Rule(
    op="Momentum",
    stem="momentum",
    title="SGD with momentum",
    lines=(
        "momentum_buffer[{at}] = {momentum} * momentum_buffer[{at}] + g;",
        "w[{at}] -= rate * momentum_buffer[{at}];",
    ),
    state=("momentum_buffer",),
    constants=("momentum",),
    cycles=("elementwise",),
)

NESTEROV = Rule(
    op="Nesterov",
    stem="nesterov",
    title="SGD with Nesterov's momentum",
    lines=(
        "momentum_buffer[{at}] = {momentum} * momentum_buffer[{at}] + g;",
        "w[{at}] -= rate * (g + {momentum} * momentum_buffer[{at}]);",
    ),
    state=("momentum_buffer",),
    constants=("momentum",),
    cycles=("elementwise",),
)

_ADAM_SETUP = (
    "const float rate = *learning_rate / poet_average_weight({one_minus_beta1}, t);",
    "const float scale = 1.0f / poet_sqrtf(poet_average_weight({one_minus_beta2}, t));",
)
_ADAM_AVERAGES = (
    "exp_avg[{at}] = {beta1} * exp_avg[{at}] + {one_minus_beta1} * g;",
    "exp_avg_sq[{at}] = {beta2} * exp_avg_sq[{at}] + {one_minus_beta2} * (g * g);",
)
_ADAM_STEP = "rate * exp_avg[{at}] / (scale * poet_sqrtf(exp_avg_sq[{at}]) + {epsilon});"

ADAM = Rule(
    op="Adam",
    stem="adam",
    title="Adam",
    setup=_ADAM_SETUP,
    lines=(*_ADAM_AVERAGES, f"w[{{at}}] -= {_ADAM_STEP}"),
    state=("exp_avg", "exp_avg_sq"),
    constants=("beta1", "beta2", "epsilon"),
    reads_step=True,
    cycles=("elementwise", "elementwise", "divide", "root"),
)

# Decoupled weight decay: it scales w, and never enters the averages.
ADAMW = Rule(
    op="AdamW",
    stem="adamw",
    title="AdamW",
    setup=("const float keep = 1.0f - *learning_rate * {weight_decay};", *_ADAM_SETUP),
    lines=(*_ADAM_AVERAGES, f"w[{{at}}] = keep * w[{{at}}] - {_ADAM_STEP}"),
    state=("exp_avg", "exp_avg_sq"),
    constants=("beta1", "beta2", "epsilon", "weight_decay"),
    reads_step=True,
    cycles=("elementwise", "elementwise", "divide", "root"),
)

RULES = (SGD, MOMENTUM, NESTEROV, ADAM, ADAMW)

ACCUMULATOR = "gradient_sum"
"""The state that sums gradients over micro-batches, beside those of the rule."""


def rule_of(recipe: Recipe) -> Rule:
    """The rule that a recipe asks for."""
    if recipe.optimizer is Optimizer.ADAM:
        return ADAM
    if recipe.optimizer is Optimizer.ADAMW:
        return ADAMW
    if recipe.momentum == 0.0:
        return SGD
    return NESTEROV if recipe.nesterov else MOMENTUM


def update_attrs(recipe: Recipe, decays: bool = True) -> dict[str, AttrValue]:
    """The attributes of an update node: the rule's constants, then `l2` and `accumulate` where they do something.

    l2 is the weight decay that joins the gradient; a parameter that is kept from any has `decays` False.
    """
    rule = rule_of(recipe)
    decay = recipe.decay if decays else 0.0
    numbers = {
        "momentum": recipe.momentum,
        "beta1": recipe.beta1,
        "beta2": recipe.beta2,
        "epsilon": recipe.epsilon,
        "weight_decay": decay,
    }
    attrs: dict[str, AttrValue] = {name: numbers[name] for name in rule.constants}
    if decay and "weight_decay" not in rule.constants:
        attrs["l2"] = decay
    if recipe.accumulate > 1:
        attrs["accumulate"] = recipe.accumulate
    return attrs


def state_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of what a parameter's update keeps between steps."""
    return (*rule_of(recipe).state, *((ACCUMULATOR,) if recipe.accumulate > 1 else ()))
