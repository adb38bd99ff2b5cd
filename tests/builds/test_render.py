from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poet_codegen.errors import ToolError
from poet_codegen.render import c_array, c_comment, c_float, c_string, render

finite_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(finite_float32)
def test_c_float_reads_back_the_same(value: float) -> None:
    literal = c_float(value)
    assert literal.endswith("f")
    back = np.float32(literal[:-1])
    assert back.tobytes() == np.float32(value).tobytes()


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (1, "1.0f"),
        (0.1, "0.1f"),
        (-0.0, "-0.0f"),
        (1e-25, "1e-25f"),
        (16777216, "16777216.0f"),
        (1e-45, "1e-45f"),
        (np.float32(0.3), "0.3f"),
    ],
)
def test_c_float_is_short(value: float, literal: str) -> None:
    assert c_float(value) == literal


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e39])
def test_c_float_refuses_what_c_cannot_write(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        c_float(value)


@given(st.text())
def test_c_comment_cannot_end_the_comment(text: str) -> None:
    comment = c_comment(text)
    assert comment.isascii() and comment.isprintable()
    for bad in ("*/", "/*", "??", "\\"):
        assert bad not in comment
    # What a template puts right after it still ends the comment, and nothing else does.
    assert f"{comment}*/".index("*/") == len(comment)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no host C compiler")
def test_c_string_and_float_through_a_real_compiler(tmp_path: Path) -> None:
    names = [
        '"; } int x = 1; /*',
        "*/",
        "a\\",
        "??/",
        "??'",
        "\0x",
        "é\U0001f600",
        "tab\tnew\nline\r",
        "%s%n",
        "\x011",
    ]
    floats = [np.float32(x) for x in (0.1, -3.4028235e38, 1e-45, 1 / 3, -0.0, 8388609)]
    table = c_array(f"{{{c_string(n)}, {len(n.encode())}}}" for n in names)
    source = f"""
#include <stdio.h>
#include <string.h>
/* {c_comment("".join(names))} */
static const struct {{ const char *text; size_t size; }} names[] = {{
{table}
}};
static const float floats[] = {{
{c_array(map(c_float, floats))}
}};
int main(void)
{{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {{
        fwrite(names[i].text, 1, names[i].size, stdout);
    }}
    fwrite(floats, sizeof floats[0], sizeof floats / sizeof floats[0], stdout);
    return 0;
}}
"""
    (tmp_path / "t.c").write_text(source, encoding="ascii")
    flags = ["-std=c99", "-trigraphs", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "t.c", "-o", "t"], cwd=tmp_path, check=True)
    out = subprocess.run([str(tmp_path / "t")], check=True, capture_output=True).stdout
    assert out == "".join(names).encode() + b"".join(f.tobytes() for f in floats)


def test_c_array_wraps() -> None:
    text = c_array(range(100), width=40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.replace("\n", " ").split() == [f"{i}," for i in range(100)]
    assert c_array([]) == ""


def test_missing_template_or_name_is_an_error() -> None:
    with pytest.raises(ToolError, match="no_such_template"):
        render("no_such_template.j2")
    with pytest.raises(ToolError, match=r"platformio\.ini\.j2.*undefined"):
        render("project/platformio.ini.j2")
