// SPDX-License-Identifier: MIT
// make_model FILE.gguf [LAYERS [WIDTH]]: writes a Llama with random weights, for load.mjs. The default has 24
// million parameters. It answers noise, in printable characters; what it computes is real.
#include "random_model.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

int main(int argc, char** argv) {
    const int layers = argc > 2 ? std::atoi(argv[2]) : 8;
    const int width = argc > 3 ? std::atoi(argv[3]) : 512;
    if (argc < 2 || layers < 1 || width < 64 || width % 64 != 0) {
        std::fputs("usage: make_model FILE.gguf [LAYERS [WIDTH, a multiple of 64]]\n", stderr);
        return 2;
    }
    const auto n = static_cast<std::uint32_t>(width);
    try {
        random_model::write(argv[1],
                            {.layers = std::string(static_cast<std::size_t>(layers), 'a'),
                             .width = n,
                             .feed_forward = n / 64 * 176,
                             .heads = n / 64,
                             .kv_heads = n / 128 > 0 ? n / 128 : 1,
                             .printable = true},
                            1);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "make_model: %s\n", error.what());
        return 1;
    }
    return 0;
}
