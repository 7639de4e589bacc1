// SPDX-License-Identifier: MIT
// printable: text of unknown origin, made safe for a terminal.
#ifndef PROMPTKV_REPLAY_TEXT_HPP
#define PROMPTKV_REPLAY_TEXT_HPP

#include <string>
#include <string_view>

namespace replay {

/// `text` with each byte that is no printable UTF-8 written as `\xNN`. A terminal shows the control
/// characters of a hostile file name instead of obeying them.
[[nodiscard]] std::string printable(std::string_view text);

} // namespace replay

#endif
