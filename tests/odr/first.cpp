// SPDX-License-Identifier: MIT
// Compiled without NDEBUG: that this program links shows that no header defines a symbol twice.
#include "layout.hpp"

int main() {
    return layout_here == layout_with_ndebug() ? 0 : 1;
}
