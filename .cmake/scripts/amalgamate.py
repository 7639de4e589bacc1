#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the library as one header.

    .cmake/scripts/amalgamate.py OUT/promptkv.hpp

It holds the headers ROOTS, and everything that they include. What the
standard library gives is included once, at the top.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
ROOTS = ("promptkv/promptkv.hpp", "promptkv/reuse_order.hpp", "promptkv/concurrent_prompt_cache.hpp")
OWN = re.compile(r"\s*#\s*include\s*<(promptkv/[^>]+)>")
OTHER = re.compile(r"#\s*include\s*<([^>]+)>")


def version():
    text = (INCLUDE / "promptkv/version.hpp").read_text()
    return ".".join(re.findall(r"#define PROMPTKV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", text))


def body(name, done, standard, out):
    """Adds the text of a header behind what it includes; each header once."""
    if name in done:
        return
    done.add(name)
    lines = (INCLUDE / name).read_text().splitlines()
    guard = next(i for i, line in enumerate(lines) if line.startswith("#ifndef"))
    if not re.match(r"#define PROMPTKV_\w+_HPP", lines[guard + 1]):
        sys.exit(f"{name}: no include guard")
    end = max(i for i, line in enumerate(lines) if line.startswith("#endif"))
    comment = [line for line in lines[:guard] if "SPDX" not in line]
    text = []
    depth = 0  # of #if: what is included on a condition stays where it is
    for line in lines[guard + 2 : end]:
        if re.match(r"\s*#\s*if", line):
            depth += 1
        elif re.match(r"\s*#\s*endif", line):
            depth -= 1
        own = OWN.match(line)
        other = OTHER.match(line)
        if own:
            if depth > 0:
                sys.exit(f"{name}: an own header is included on a condition: {line}")
            body(own.group(1), done, standard, out)
        elif other and depth == 0:
            standard.add(other.group(1))
        else:
            text.append(line)
    while text and not text[0].strip():
        text.pop(0)
    while text and not text[-1].strip():
        text.pop()
    if not text:
        comment = []  # it says what the header includes: here that is another choice
    # With its guard, so that a program may also include the part itself.
    title = f"// {name} " + "/" * max(0, 96 - len(name))
    out += [title, *comment, lines[guard], lines[guard + 1], "", *text, "", "#endif", ""]


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    standard, out, done = set(), [], set()
    for root in ROOTS:
        body(root, done, standard, out)
    licence = [("// " + line).rstrip() for line in (ROOT / "LICENSE").read_text().splitlines()]
    head = [
        "// SPDX-License-Identifier: MIT",
        f"// promptkv {version()}, the whole library as one header. Made by a script: change the parts.",
        "//",
        *licence,
        "#ifndef PROMPTKV_SINGLE_HEADER_HPP",
        "#define PROMPTKV_SINGLE_HEADER_HPP",
        "",
        *(f"#include <{name}>" for name in sorted(standard)),
        "",
    ]
    text = "\n".join([*head, *out, "#endif", ""])
    pathlib.Path(sys.argv[1]).write_text(re.sub(r"\n{3,}", "\n\n", text))


if __name__ == "__main__":
    main()
