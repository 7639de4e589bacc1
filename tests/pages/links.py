# SPDX-License-Identifier: MIT
"""Each relative link of each page leads to a file, and README.md has at most 250 lines.

    links.py ROOT
"""

import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
hidden = {".git", ".cache"}
faults = []
n_links = 0
for page in sorted(root.rglob("*.md")):
    parts = page.relative_to(root).parts
    if hidden & set(parts) or parts[0].startswith("build"):
        continue
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link or link.startswith("#"):
            continue
        n_links += 1
        if not (page.parent / link.split("#")[0]).exists():
            faults.append(f"{page.relative_to(root)} links to {link}, which is not there")
n_lines = len((root / "README.md").read_text().splitlines())
if n_lines > 250:
    faults.append(f"README.md has {n_lines} lines")
if n_links == 0:
    faults.append("no link was found")
print("\n".join(faults) or f"{n_links} links lead somewhere")
sys.exit(len(faults) > 0)
