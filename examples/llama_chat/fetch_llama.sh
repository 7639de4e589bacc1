#!/bin/sh
# SPDX-License-Identifier: MIT
# Fetches a built llama.cpp (MIT) for Linux x86-64 into DIR, for a machine that has none installed:
# the libraries from one npm package, the headers that match them from another. Nothing of the
# packages is executed.
#
#   fetch_llama.sh DIR      DIR/include  DIR/lib  DIR/licenses
set -eu

version=3.22.1
libraries=@node-llama-cpp/linux-x64
libraries_sha512=e6e0820cda9608d7da026f1a47f533c5ba381c1a4a80d17dd640873dea4a86032057638099ab6879f6ce94c8a1b2a0a21f639ddf913f7941d00856df44126e3a
sources=node-llama-cpp
sources_sha512=6e5b488a9b9699cd76dc7eed30880318a4ac4ab866865418795502e3c5d38d55bb5c624988927209d95333343f2e25a83e4183a5c2f816f883a60c3ba9f4e20f

fail() {
    echo "fetch_llama: $*" >&2
    exit 1
}

[ -n "${1:-}" ] || fail "usage: fetch_llama.sh DIR"
directory=$1
if [ "$(cat "$directory/version" 2>/dev/null)" = "$version" ]; then
    echo "llama.cpp is in $directory already"
    exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] || fail "these libraries are for Linux on x86-64; install llama.cpp instead"
for tool in npm git tar sha512sum; do
    command -v $tool >/dev/null || fail "needs $tool (or install llama.cpp instead)"
done

mkdir -p "$directory"
work=$(mktemp -d "$directory/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

# fetch PACKAGE SHA512 SIZE WHAT: leaves the package's files in $work/package
fetch() {
    echo "fetching $1@$version ($3, $4) from the npm registry"
    archive=$(cd "$work" && npm pack --silent --ignore-scripts --fetch-retries=1 "$1@$version") ||
        fail "npm could not fetch $1"
    echo "$2  $work/$archive" | sha512sum --check --status ||
        fail "$1@$version is not what was expected: its SHA-512 differs"
    rm -rf "$work/package"
    tar -xzf "$work/$archive" -C "$work"
}

rm -rf "${directory:?}/include" "$directory/lib" "$directory/licenses"
mkdir "$directory/lib" "$directory/licenses"

fetch $libraries $libraries_sha512 "11 MB" "libllama and libggml"
mv "$work"/package/bins/linux-x64/libllama.v*.so "$work"/package/bins/linux-x64/libggml*.so "$directory/lib/"
ln -s "$(cd "$directory/lib" && echo libllama.v*.so)" "$directory/lib/libllama.so"
ln -s "$(cd "$directory/lib" && echo libggml.v*.so)" "$directory/lib/libggml.so"
cp "$work/package/LICENSE" "$directory/licenses/node-llama-cpp"

fetch $sources $sources_sha512 "36 MB" "a git bundle with the headers"
git init --quiet --bare "$work/git"
git -C "$work/git" fetch --quiet "$work/package/llama/gitRelease.bundle" HEAD
git -C "$work/git" archive FETCH_HEAD include ggml/include LICENSE | tar -x -C "$work"
mkdir "$directory/include"
mv "$work"/include/*.h "$work"/ggml/include/*.h "$directory/include/"
mv "$work/LICENSE" "$directory/licenses/llama.cpp"

echo "$version" >"$directory/version" # last, so that an incomplete folder is fetched again
echo "llama.cpp is in $directory"
