/// The streams of one sample, as a forward pass told them.
///
/// Legend: S states of a stream, R rows, d width.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "thaw/policy/layout.h"
#include "thaw/study/measure.h"

namespace thaw {

/// One part of a stack's rows on their way through its blocks.
struct Stream {
  std::vector<at::Tensor> states;  ///< (1, …, d) each: before block 0, behind block 0, …
  std::vector<TokenGroup> groups;  ///< rows (1, R)
};

/// By part, in order.
using Streams = std::map<std::string, Stream>;

class StreamRecorder final : public StreamTap {
 public:
  /// With `gradients`, streams that come from frozen weights begin a graph. `stacks`: those to listen to.
  StreamRecorder(const ModelLayout& layout, std::set<std::string> stacks, bool gradients)
      : layout_(&layout), stacks_(std::move(stacks)), gradients_(gradients) {}

  at::Tensor before(const std::string& stack, at::Tensor hidden, std::vector<TokenGroup> groups,
                    const std::string& part) override;
  at::Tensor after(const std::string& stack, std::int64_t block, at::Tensor hidden, const std::string& part) override;

  /// What was told of each stack since the last clear().
  [[nodiscard]] const std::map<std::string, Streams>& streams() const noexcept { return streams_; }
  void clear() { streams_.clear(); }

 private:
  const ModelLayout* layout_;
  std::set<std::string> stacks_;
  bool gradients_;
  std::map<std::string, Streams> streams_;
};

/// Number of states of the part that has most. The rows of another may end before: nobody reads what the last block
/// makes of them.
[[nodiscard]] std::int64_t most_states(const Streams& streams);

/// Puts rows of each state behind those of `all`, up to the last state that both have.
void append_rows(std::vector<at::Tensor>& all, const std::vector<at::Tensor>& rows);

/// Group name -> its rows of each state, (n, d), parts one after another. Groups without rows are left out.
[[nodiscard]] std::map<std::string, std::vector<at::Tensor>> rows_by_group(const Streams& streams);

}  // namespace thaw
