#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes what a release publishes, or checks that a release may be made.

    .cmake/scripts/release.py make OUT     writes the files below to the folder OUT
    .cmake/scripts/release.py check TAG    fails unless TAG is the version of version.hpp and
                                           .github/CHANGELOG.md has a section for it

    promptkv-VERSION.tar.gz    headers, CMake and Bazel files, licence: what the recipes fetch
    promptkv.hpp               the library as one header
    recipes/                   .cmake/packaging with version and checksums filled in
    SHA256SUMS                 of all of it
"""

import base64
import gzip
import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGING = ROOT / ".cmake/packaging"
sys.path.insert(0, str(ROOT / ".cmake/scripts"))
from amalgamate import version  # noqa: E402


def archive_files():
    """The name and the bytes of each file."""
    paths = [ROOT / name for name in ("CMakeLists.txt", "LICENSE", "README.md")]
    for folder in ("include", ".cmake"):
        paths += sorted((ROOT / folder).rglob("*"))
    for path in paths:
        if path.is_file() and not {"__pycache__", "packaging"} & set(path.parts):
            yield path.relative_to(ROOT).as_posix(), path.read_bytes()
    for name in ("BUILD.bazel", "MODULE.bazel"):
        yield name, fill((PACKAGING / "bazel" / name).read_text(), {"VERSION": version()}).encode()


def make_archive(path):
    """The same sources give the same bytes: no times, no owners, sorted."""
    name = path.name.removesuffix(".tar.gz")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for place, data in archive_files():
            info = tarfile.TarInfo(f"{name}/{place}")
            info.size = len(data)
            info.mode = 0o755 if place.endswith((".sh", ".py")) else 0o644
            tar.addfile(info, io.BytesIO(data))
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(raw.getvalue())


def fill(text, values):
    return re.sub(r"@([A-Z0-9_]+)@", lambda match: values[match.group(1)], text)


def make_recipes(out, archive):
    data = archive.read_bytes()
    values = {
        "VERSION": version(),
        "SHA256": hashlib.sha256(data).hexdigest(),
        "SHA512": hashlib.sha512(data).hexdigest(),
        "SHA256_BASE64": base64.b64encode(hashlib.sha256(data).digest()).decode(),
    }
    # A Bazel registry has a folder for each version.
    registry = pathlib.PurePath("bazel/modules/promptkv", version())
    places = {f"bazel/{name}": registry / name for name in ("MODULE.bazel", "source.json")}
    for source in sorted(PACKAGING.rglob("*")):
        name = source.relative_to(PACKAGING).as_posix()
        if source.is_dir() or "__pycache__" in source.parts or name.startswith("conan/"):
            continue  # Conan reads a clone
        place = out / places.get(name, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(fill(source.read_text(), values))


def make(out):
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"promptkv-{version()}.tar.gz"
    make_archive(archive)
    make_recipes(out / "recipes", archive)
    subprocess.run([sys.executable, ROOT / ".cmake/scripts/amalgamate.py", out / "promptkv.hpp"], check=True)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out).as_posix()}\n"
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "SHA256SUMS"
    ]
    (out / "SHA256SUMS").write_text("".join(sums))
    print(f"{archive.name} and {len(sums) - 1} other files are in {out}")


def check(tag):
    if tag != f"v{version()}":
        sys.exit(f"the tag is {tag}, but version.hpp says {version()}")
    changelog = (ROOT / ".github/CHANGELOG.md").read_text()
    if not re.search(rf"^## {re.escape(version())}\b", changelog, re.MULTILINE):
        sys.exit(f".github/CHANGELOG.md has no section \"## {version()}\"")
    print(f"{tag} agrees with version.hpp and with the changelog")


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "check"):
        sys.exit(__doc__)
    if sys.argv[1] == "make":
        make(pathlib.Path(sys.argv[2]))
    else:
        check(sys.argv[2])


if __name__ == "__main__":
    main()
