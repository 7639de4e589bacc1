#!/bin/sh
# SPDX-License-Identifier: MIT
# Doxygen's filter of a page: links to files that are not among its pages become links to the repository.
#   links.sh <page, below the working directory>
repository=https://github.com/promptkv/promptkv/blob/main
folder=$(dirname "$1")
sed -E \
    -e "s#\]\((\.\./)*(\.github/docs/)?([a-z_]+\.md)\)#](\3)#g" \
    -e "s#\]\((\.\./)+([^)]*)\)#]($repository/\2)#g" \
    -e "s#\]\(((examples|benchmarks|tests|include|\.cmake|\.github|LICENSE)[^)]*)\)#]($repository/\1)#g" \
    "$1" | case $folder in
*include)
    sed -E "s#\]\(([^:)]*)\)#]($repository/include/\1)#g" ;;
*) cat ;;
esac
