#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the tests of examples/llama_server in FOLDER, where the npm packages that they need are installed.
#   run.sh SERVER FOLDER
# Exit code 77, for ctest: skipped.
set -eu

tests=$(cd "$(dirname "$0")" && pwd)
PROMPTKV_LLAMA_SERVER=$1
export PROMPTKV_LLAMA_SERVER
mkdir -p "$2"
cd "$2"
cp "$tests"/*.mjs "$tests"/package.json "$tests"/package-lock.json .
if ! cmp -s package-lock.json node_modules/installed.json; then
    npm ci --silent --no-audit --no-fund --ignore-scripts || {
        echo "SKIPPED: npm could not install the packages openai and @anthropic-ai/sdk"
        exit 77
    }
    cp package-lock.json node_modules/installed.json
fi
exec node --test
