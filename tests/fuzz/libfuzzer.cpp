// SPDX-License-Identifier: MIT
// The driver for libFuzzer.
#include "run.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string story = promptkv_test::failure_of_bytes({data, size});
    if (!story.empty()) {
        std::cerr << story << std::endl;
        std::abort();
    }
    return 0;
}
