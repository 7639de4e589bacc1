# SPDX-License-Identifier: MIT
# Sourced by tests/run, examples/run and benchmarks/run.

# Installs those of the given Debian packages that are absent, and says which. Where there is no apt-get
# nothing is installed: the build says what it misses.
need_packages() {
    local missing=() package sudo=()
    if ! command -v apt-get >/dev/null; then
        echo "no apt-get here; needed, by their Debian names: $*"
        return 0
    fi
    for package in "$@"; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "missing packages, now being installed: ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq &&
        "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || {
        echo "could not install: ${missing[*]}"
        return 1
    }
}
