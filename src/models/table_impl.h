/// Building a model's table of tensors: the one place where its parameters are listed, in registration order.
#pragma once

#include <string>
#include <vector>

#include "thaw/policy/layout.h"

namespace thaw::models {

/// What the parameters of one part of the model have in common.
struct Part {
  at::ScalarType dtype = at::kFloat;
  bool trainable = true;
  std::string stack;
  std::int64_t block = -1;

  /// The same, as block `index` of stack `name`.
  [[nodiscard]] Part in(const std::string& name, std::int64_t index) const;
};

class Table {
 public:
  using Shape = std::vector<std::int64_t>;

  /// One tensor. Its groups follow from its name.
  void add(const Part& part, const std::string& name, Shape shape);
  /// <name>.weight of this shape and <name>.bias of its first size.
  void add_biased(const Part& part, const std::string& name, Shape weight_shape);
  /// Puts the last tensor into a group that its name does not tell.
  void add_to_group(const std::string& group);

  [[nodiscard]] std::vector<ParameterInfo> take() { return std::move(rows_); }

 private:
  std::vector<ParameterInfo> rows_;
};

}  // namespace thaw::models
