// SPDX-License-Identifier: MIT
// printable: what a terminal may get, and what it must not.

#include "replay/text.hpp"

#include "catch.hpp"

#include <string>

namespace {

using replay::printable;

TEST_CASE("printable keeps printable UTF-8") {
    const std::string text = GENERATE("", "plain text ~", "\u00e9\u00df\u20ac\u4e2d\U0001F600");
    REQUIRE(printable(text) == text);
}

TEST_CASE("printable writes control characters as bytes") {
    REQUIRE(printable("a\nb\tc") == "a\\x0ab\\x09c");
    REQUIRE(printable("\x1b[31mred") == "\\x1b[31mred");
    REQUIRE(printable("\x7f") == "\\x7f");
    REQUIRE(printable(std::string(1, '\0')) == "\\x00");
    REQUIRE(printable("\xc2\x9b") == "\\xc2\\x9b"); // a control sequence introducer in UTF-8
}

TEST_CASE("printable writes bytes that are no UTF-8 as bytes") {
    REQUIRE(printable("caf\xe9") == "caf\\xe9");      // Latin-1
    REQUIRE(printable("\xff!") == "\\xff!");          // no first byte
    REQUIRE(printable("\x80") == "\\x80");            // no first byte either
    REQUIRE(printable("\xe2\x82") == "\\xe2\\x82");   // too short
    REQUIRE(printable("\xe2\x82z") == "\\xe2\\x82z"); // no third byte
    REQUIRE(printable("\xc0\xaf") == "\\xc0\\xaf");   // '/' in two bytes
    REQUIRE(printable("\xe0\x80\xaf") == "\\xe0\\x80\\xaf");
    REQUIRE(printable("\xed\xa0\x80") == "\\xed\\xa0\\x80");          // a surrogate
    REQUIRE(printable("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80"); // beyond U+10FFFF
}

} // namespace
