# SPDX-License-Identifier: MIT
"""The natvis file is XML, and each type and member that it names is in the headers.

    natvis.py FILE INCLUDE
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as tree

headers = "\n".join(path.read_text() for path in pathlib.Path(sys.argv[2]).rglob("*.hpp"))
abi = re.search(r"#define PROMPTKV_ABI (\w+)", headers)[1]
faults = []
types = list(tree.parse(sys.argv[1]).getroot())
for type_ in types:
    match = re.fullmatch(r"promptkv::(\w+)::(?:detail::)?(\w+)<\*>", type_.get("Name"))
    if not match or match[1] != abi or not re.search(rf"\b(?:class|struct)\b[^;{{]*\b{match[2]}\b", headers):
        faults.append(f"no such type: {type_.get('Name')}")
    for text in (part.text or "" for part in type_.iter()):
        for name in re.findall(r"\b[a-z]\w*_\b", text):
            if not re.search(rf"\b{name}(?:\{{|;| =)", headers):
                faults.append(f"no such member: {name}")
print("\n".join(faults) or f"{len(types)} types are as in the headers")
sys.exit(len(faults) > 0 or len(types) == 0)
