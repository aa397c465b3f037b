// What nearly every file that sees tensors parses, and no more: g++ instantiates again, in every file, what a
// precompiled header left pending (2 s for this one, 7 s for module_pch.h). Operators come one by one, from ATen/ops.
#pragma once
#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
