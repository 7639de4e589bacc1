#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the documentation: the guides of .github/docs and the reference of the public headers. A warning
# makes it fail.
#   .cmake/scripts/docs.sh          writes build/docs/html, or docs/html of the folder that BUILD_DIR names
#   .cmake/scripts/docs.sh --help   this text
set -euo pipefail
cd "$(dirname "$0")/../.."

case ${1:-} in
'') ;;
*)
    sed -n '3,6s/^# \{0,1\}//p' .cmake/scripts/docs.sh
    [ "$1" = --help ] && exit 0 || exit 2
    ;;
esac
command -v doxygen >/dev/null || {
    echo 'doxygen is not installed' >&2
    exit 1
}

out=${BUILD_DIR:-build}/docs
rm -rf "$out"
mkdir -p "$out"
version=$(sed -n 's/^#define PROMPTKV_VERSION_[A-Z]* //p' include/promptkv/version.hpp | paste -sd .)
style=/usr/share/doxygen-awesome-css # of Debian's package of this name; without it Doxygen's own
{
    cat .cmake/docs/Doxyfile
    echo "PROJECT_NUMBER = $version"
    echo "OUTPUT_DIRECTORY = $out"
    echo "USE_MDFILE_AS_MAINPAGE = $PWD/README.md"
    if [ -d "$style" ]; then
        echo "HTML_EXTRA_STYLESHEET = $style/doxygen-awesome.css $style/doxygen-awesome-sidebar-only.css"
    fi
} | doxygen -
echo "$out/html/index.html"
