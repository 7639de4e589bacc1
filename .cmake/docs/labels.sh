#!/bin/sh
# SPDX-License-Identifier: MIT
# Doxygen's filter of a header: the labels of a contract ("Requires:", "Throws:") become paragraphs of their
# own, and the inline namespace and specialisations of std are left out.
exec sed -E -e 's#^namespace promptkv::inline PROMPTKV_ABI#namespace promptkv#' \
    -e '/^struct std::/,/^};/s/.*//' \
    -e 's#^( *///) (Requires|Requires of `T`|Effects|Returns|Throws|Complexity|Differs|Source|Invalidates|Invariants|Thread safety|Exceptions|Overhead|Shape|What is evicted|What a use does|Superseding.*|Sessions|Callers.? code): +#\1 \\par \2\n\1 #' "$1"
