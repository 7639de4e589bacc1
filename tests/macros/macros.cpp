// SPDX-License-Identifier: MIT
// The headers compile after macros that others define: windows.h, and engines in C.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <concepts>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <random>
#include <ranges>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define near
#define far
#define small char
#define interface struct
#define IN
#define OUT
#define OPTIONAL
#define DELETE 1
#define ERROR 0
#define NO_ERROR 0
#define CONST const
#define VOID void

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>
#include <promptkv/reuse_order.hpp>
