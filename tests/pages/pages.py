# SPDX-License-Identifier: MIT
"""Makes one program of the code on the pages, or checks what that prints.

    pages.py make OUT.cpp PAGE...        each page becomes a function; "make" writes only what changed
    pages.py check PROGRAM PAGE          runs the page's function; each ```text block of the page must
                                         stand in its output, word for word

Of a page, each ```cpp block is taken, and each comment <!-- code ... -->, which readers do not see. A block
that begins with a declaration (#include, struct, using, template, ...) stands before the function, any
other in it. A block with a main() of its own is left out: tests/pages/check.cmake compares it.
"""

import pathlib
import re
import subprocess
import sys

BLOCK = re.compile(r"^(?:```cpp\n(?P<shown>.*?)^```$|<!-- code\n(?P<hidden>.*?)^-->$)", re.M | re.S)
DECLARATION = re.compile(r"(#include|struct|class|template|using|namespace|static_assert|enum|inline|constexpr)\b|#include")


def name_of(page):
    return page.stem.lower()


def make(out, pages):
    includes, parts = {"#include <cstring>"}, []
    for page in pages:
        text = page.read_text()
        declarations, statements = [], []
        for match in BLOCK.finditer(text):
            code = match["shown"] or match["hidden"]
            if re.search(r"\bint main\(", code):
                continue
            line = text[: match.start()].count("\n") + 2
            first = next(row for row in code.splitlines() if row.strip() and not row.startswith("//"))
            rows = [f'#line {line} "{page.as_posix()}"']
            for row in code.splitlines():
                if row.startswith("#include"):
                    includes.add(row)
                    row = ""
                rows.append(row)
            (declarations if DECLARATION.match(first) else statements).append("\n".join(rows))
        parts.append(
            f"namespace page_{name_of(page)} {{\n" + "\n".join(declarations) + "\nvoid run() {\n" + "\n".join(statements)
            + "\n}\n} // namespace\n"
        )  # fmt: skip
    calls = "".join(
        f'    if (n == 2 && std::strcmp(arguments[1], "{name_of(page)}") == 0)\n'
        f"        return page_{name_of(page)}::run(), 0;\n"
        for page in pages
    )
    text = "\n".join([*sorted(includes), "", *parts, f"int main(int n, char** arguments) {{\n{calls}    return 2;\n}}\n"])
    if not out.exists() or out.read_text() != text:
        out.write_text(text)


def check(program, page):
    output = subprocess.run([program, name_of(page)], check=True, capture_output=True, text=True).stdout
    print(output, end="")
    for expected in re.findall(r"^```text\n(.*?)^```$", page.read_text(), re.M | re.S):
        if expected not in output:
            sys.exit(f"{page} says what the program does not print:\n{expected}")


if __name__ == "__main__":
    action, first, *rest = sys.argv[1:]
    if action == "make":
        make(pathlib.Path(first), [pathlib.Path(page) for page in rest])
    else:
        check(first, pathlib.Path(rest[0]))
