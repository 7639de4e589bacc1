// SPDX-License-Identifier: MIT
// Compiled with NDEBUG, which must not change a layout.
#include "layout.hpp"

Layout layout_with_ndebug() {
    return layout_here;
}
