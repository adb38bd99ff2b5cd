"""A tiled computation as C: its loops with their page calls and kernel calls."""

from __future__ import annotations

from poet_codegen.emit.nests import Names, Places
from poet_codegen.emit.wrap import wrap_call
from poet_codegen.graph import Graph
from poet_codegen.tiling.program import (
    FLOAT_BYTES,
    Call,
    Check,
    Index,
    Loop,
    Move,
    Number,
    Operand,
    Pick,
    Program,
    Start,
    StartNext,
    Statement,
    Wait,
)

_INDENT = 4
_ROWS = "rows"
"""Array of the rows that are picked, where they are constant."""


def tiled_block(program: Program, graph: Graph, names: Names | Places, column: int) -> str:
    """A block of statements that starts at `column`; the first line is not indented."""
    inner = column + _INDENT
    lines = []
    for tensor, is_written in program.streams():
        size = graph.tensors[tensor].size_bytes
        stream_name = names.stream(tensor, is_written)
        lines.append(f"poet_stream_t {stream_name} = poet_stream({names.page(tensor)}, {size}u);")

    def tile(at: Index) -> str:
        terms = [names.workspace(), *([_text(at)] if at.start or at.steps else [])]
        if at.copy is not None:
            turns = [*at.copy.variables, *(["1u"] if at.copy.turn else [])]
            turn = f"({' + '.join(turns)})" if len(turns) > 1 else turns[0]
            terms.append(f"{turn} % 2u * {at.copy.distance_bytes}u")
        return f"ARENA({' + '.join(terms)})"

    def operand(item: Operand | Number) -> str:
        if isinstance(item, Number):
            return _text(item.at)
        if item.tensor is None:
            return tile(item.at)
        return _plus(names.argument(item.tensor), item.at)

    def shape(step: Move) -> str:
        numbers = (step.shape.run_bytes, step.shape.runs, step.shape.stride_bytes, step.shape.again_bytes)
        return "&(poet_tile_t){" + ", ".join(f"{number}u" for number in numbers) + "}"

    def stream(do: str, step: Move, at: int) -> str:
        place = tile(Index(step.buffer, copy=step.copy))
        arguments = [f"&{names.stream(step.tensor, step.to_tensor)}", place, _text(step.at), shape(step)]
        return wrap_call(f"POET_TRY(poet_stream_{do}", arguments, at, ");")

    def move(step: Move, at: int) -> str:
        if step.streamed:
            return stream("write" if step.to_tensor else "read", step, at)
        place, here = _plus(names.argument(step.tensor), step.at), tile(Index(step.buffer, copy=step.copy))
        if step.to_tensor:
            return wrap_call("poet_tile_scatter", [place, here, shape(step)], at, ";")
        return wrap_call("poet_tile_gather", [here, place, shape(step)], at, ";")

    def pick(step: Pick, at: int) -> str:
        index = _plus(names.argument(step.index) if step.index else _ROWS, step.at)
        if not step.streamed:
            table = names.argument(step.table)
            numbers = [f"{step.rows}u", f"{step.row_bytes}u"]
            return wrap_call(
                "poet_tile_rows", [operand(step.target), table, *numbers, index, f"{step.count}u"], at, ";"
            )
        page = names.page(step.table)
        arguments = [page, f"{step.rows}u", f"{step.row_bytes}u", index, f"{step.count}u", operand(step.target)]
        return wrap_call("POET_TRY(poet_page_rows", arguments, at, ");")

    for constants in dict.fromkeys(step.constants for step, _ in program.counted() if isinstance(step, Pick)):
        if constants:
            lines.append(f"static const int32_t {_ROWS}[] = {{{', '.join(map(str, constants))}}};")

    def write(body: tuple[Statement, ...], at: int) -> None:
        for step in body:
            pad = " " * (at - inner)
            if isinstance(step, Loop):
                i = step.variable
                lines.append(f"{pad}for (uint32_t {i} = {step.first}; {i} < {step.end}u; {i}++) {{")
                write(step.body, at + _INDENT)
                lines.append(f"{pad}}}")
            elif isinstance(step, Call):
                text = wrap_call(step.kernel.name, [operand(item) for item in step.operands], at, ";")
                lines.append(pad + text)
            elif isinstance(step, Pick):
                lines.append(pad + pick(step, at))
            elif isinstance(step, Start | Check):
                lines.append(pad + stream("start" if isinstance(step, Start) else "check", step.move, at))
            elif isinstance(step, StartNext):
                lines.append(f"{pad}if ({step.variable} < {step.last}u) {{")
                write(tuple(map(Start, step.moves)), at + _INDENT)
                if step.after:
                    lines.append(f"{pad}}} else {{")
                    write(step.after, at + _INDENT)
                lines.append(f"{pad}}}")
            elif isinstance(step, Wait):
                lines.append(f"{pad}POET_TRY(poet_page_wait());")
            else:
                lines.append(pad + move(step, at))

    write(program.body, inner)
    # Lines that wrap_call broke are indented already.
    text = "\n".join(" " * inner + line for line in lines)
    return "{\n" + text + "\n" + " " * column + "}"


def _text(index: Index) -> str:
    terms = [f"{variable} * {step}u" for variable, step in index.steps]
    if index.start or not terms:
        terms.insert(0, f"{index.start}u")
    return " + ".join(terms)


def _plus(pointer: str, index: Index) -> str:
    elements = Index(index.start // FLOAT_BYTES, tuple((v, step // FLOAT_BYTES) for v, step in index.steps))
    return f"{pointer} + {_text(elements)}" if elements.start or elements.steps else pointer
