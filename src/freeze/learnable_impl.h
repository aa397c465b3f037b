/// Which parameters can get a gradient at all, and why the others cannot.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "thaw/policy/layout.h"

namespace thaw {

class Learnable {
 public:
  /// `tied`: each later name of a tensor -> its first. @throws UsageError when the layout contradicts itself
  Learnable(const ModelLayout& layout, const std::map<std::string, std::string>& tied);

  /// A stage that the output depends on uses it, under this or another name.
  [[nodiscard]] bool is_live(std::size_t parameter) const { return live_[first_[parameter]]; }
  /// Live, and of a dtype that has gradients.
  [[nodiscard]] bool can_learn(std::size_t parameter) const;
  /// One sentence on why `parameter` cannot learn.
  [[nodiscard]] std::string why_not(std::size_t parameter) const;
  /// Blocks of `stack` with a parameter that can learn, ascending.
  [[nodiscard]] std::vector<std::int64_t> blocks(const std::string& stack) const;
  /// The parameter that holds the tensor's first name; itself when not tied.
  [[nodiscard]] std::size_t first_name(std::size_t parameter) const { return first_[parameter]; }

 private:
  void index_parameters(const std::map<std::string, std::string>& tied);
  void mark_live();

  const ModelLayout& layout_;
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<std::size_t> first_;
  std::vector<bool> live_;  ///< by first name
};

}  // namespace thaw
