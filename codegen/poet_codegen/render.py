"""The one Jinja environment, strict, and its filters for C.

Decisions are made in Python and templates hold text (STYLE). Values that come from a model (names, numbers)
reach C only through the filters here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import jinja2
import numpy as np

from poet_codegen.errors import ToolError
from poet_codegen.resources import data_dir

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def c_float(value: float) -> str:
    """The shortest C literal that reads back as the same float32, with the f suffix.

    Raises ValueError for infinities and NaN, which C99 has no portable literal for, and for a finite
    value that float32 rounds to infinity.
    """
    with np.errstate(over="ignore"):
        number = np.float32(value)
    if not np.isfinite(number):
        raise ValueError(f"{value!r} is not finite in float32, and C has no literal for it")
    text = np.format_float_scientific(number, unique=True, trim="-")
    mantissa, exponent = text.split("e")
    power = int(exponent)
    plain = -4 <= power < 9
    text = np.format_float_positional(number, unique=True, trim="0") if plain else f"{mantissa}e{power}"
    return f"{text}f"


def c_comment(text: object) -> str:
    """`text` as it may stand inside a C comment: one line of ASCII that cannot end the comment.

    Backslashes become slashes, and whatever is outside printable ASCII a '?' (never two in a row, which
    with a third character would form a trigraph).
    """
    line = "".join(c if " " <= c <= "~" else "?" for c in str(text)).replace("\\", "/")
    while "??" in line:
        line = line.replace("??", "?")
    line = line.replace("*/", "* /").replace("/*", "/ *")
    return line + " " if line.endswith(("*", "/")) else line


def c_string(text: object) -> str:
    """`text` as a C string literal, quotes included, in ASCII; other UTF-8 bytes become octal escapes.

    An octal escape takes at most three digits, so that no character after it can join it.
    """
    parts: list[str] = []
    for byte in str(text).encode("utf-8", "surrogatepass"):
        char = chr(byte)
        if char in _ESCAPES:
            parts.append(_ESCAPES[char])
        elif char == "?" and parts and parts[-1].endswith("?"):
            parts.append("\\?")
        elif 0x20 <= byte < 0x7F:
            parts.append(char)
        else:
            parts.append(f"\\{byte:03o}")
    return '"' + "".join(parts) + '"'


def c_array(items: Iterable[object], width: int = 100, indent: int = 4) -> str:
    """Items as the body of a C initializer, comma separated, wrapped at `width` columns with `indent`
    spaces."""
    pad = " " * indent
    lines: list[str] = []
    line = pad
    for item in items:
        cell = f"{item},"
        if line != pad and len(line) + 1 + len(cell) > width:
            lines.append(line)
            line = pad
        line += cell if line == pad else f" {cell}"
    if line != pad:
        lines.append(line)
    return "\n".join(lines)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("templates")),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(enabled_extensions=("html", "html.j2")),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        line_statement_prefix="%%",
    )
    environment.filters.update(c_float=c_float, c_comment=c_comment, c_string=c_string, c_array=c_array)
    return environment


def render(template_name: str, **context: object) -> str:
    """Render templates/`template_name` (such as 'project/platformio.ini.j2').

    HTML templates (.html, .html.j2) escape every value. Raises ToolError when the template is missing or
    uses a name that the context lacks: either is a fault of poet-mcu, and the message says which
    template.
    """
    try:
        return _environment().get_template(template_name).render(**context)
    except jinja2.TemplateError as error:
        where = getattr(error, "name", None) or template_name
        raise ToolError(
            f"Template {where} cannot be rendered: {error.message or type(error).__name__}. This is a fault "
            "of poet-mcu or of a changed template; install the package again, and report it if it stays."
        ) from error
