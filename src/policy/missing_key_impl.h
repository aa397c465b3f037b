/// The error for a key that a map of tensors does not hold.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>

namespace thaw::detail {

/// @throws MismatchError "<where> '<key>': expected <expected>, found <the keys there are>" with the nearest keys
[[noreturn]] void throw_missing_key(std::string_view where, const std::string& key, std::string_view expected,
                                    const std::map<std::string, at::Tensor>& tensors);

}  // namespace thaw::detail
