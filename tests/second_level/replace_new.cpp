// SPDX-License-Identifier: MIT
// Puts the counted operator new and delete into this executable.

#include "replace_new.hpp"
