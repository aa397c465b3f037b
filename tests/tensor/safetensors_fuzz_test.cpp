// The fuzz target under a fixed sequence of mutations, so that every run of the tests exercises it the same way.
#include <random>

#include "fuzz/safetensors_target.h"
#include "tensor/allocation_meter.h"
#include "tensor/hostile_corpus.h"

namespace thaw::safetensors_fuzz_test {
namespace {

/// Changes that keep most of the structure, with the numbers and words a header turns on.
class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : random_(seed) {}

  std::string mutate(std::string bytes, const std::string& other) {
    for (std::uint32_t left = below(4) + 1; left > 0; --left) bytes = change(std::move(bytes), other);
    return bytes;
  }
  std::uint32_t below(std::uint64_t limit) { return limit == 0 ? 0 : static_cast<std::uint32_t>(random_() % limit); }

 private:
  std::string change(std::string bytes, const std::string& other) {
    const std::size_t at = below(bytes.size() + 1);
    switch (below(6)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random_());
        return bytes;
      case 1:
        return bytes.erase(at, below(12));
      case 2:
        return bytes.insert(at, kWords[below(kWords.size())]);
      case 3:
        return bytes.replace(at, below(20), kWords[below(kWords.size())]);
      case 4:
        return bytes.insert(at, other.substr(below(other.size() + 1), below(60)));
      default:
        return replace_digits(std::move(bytes));
    }
  }

  std::string replace_digits(std::string bytes) {
    const std::size_t begin = bytes.find_first_of("0123456789", below(bytes.size() + 1));
    if (begin == std::string::npos) return bytes;
    const std::size_t end = std::min(bytes.find_first_not_of("0123456789", begin), bytes.size());
    return bytes.replace(begin, end - begin, kNumbers[below(kNumbers.size())]);
  }

  static constexpr std::array<std::string_view, 14> kWords{"\"dtype\":\"F32\"",
                                                           "\"BF16\"",
                                                           "\"BOOL\"",
                                                           "\"shape\":[",
                                                           "\"data_offsets\":[0,16]",
                                                           "\"__metadata__\":{",
                                                           "{",
                                                           "}",
                                                           "[",
                                                           "]",
                                                           ",",
                                                           "\"a\":",
                                                           "\\u0000",
                                                           " "};
  static constexpr std::array<std::string_view, 12> kNumbers{"0",
                                                             "1",
                                                             "16",
                                                             "24",
                                                             "-1",
                                                             "-0",
                                                             "2e0",
                                                             "65536",
                                                             "4294967296",
                                                             "9223372036854775807",
                                                             "18446744073709551615",
                                                             "18446744073709551616"};
  std::mt19937 random_;
};

std::vector<std::string> seeds() {
  std::vector<std::string> bytes;
  for (auto& one : test::hostile_corpus()) {
    if (one.bytes.size() <= 1000) bytes.push_back(std::move(one.bytes));
  }
  return bytes;
}

TEST(SafetensorsFuzz, MutatedFilesAreRefusedOrKeepThePromises) {
  const auto corpus = seeds();
  ASSERT_GT(corpus.size(), 70U);
  Mutator mutator(1);
  int taken = 0;
  for (int round = 0; round < 8000; ++round) {
    const std::string& base = corpus[mutator.below(corpus.size())];
    const std::string input = mutator.mutate(base, corpus[mutator.below(corpus.size())]);
    test::reset_largest_allocation();
    if (fuzz::parse_as_safetensors(input)) ++taken;
    ASSERT_LE(test::largest_allocation(), 64 * input.size() + (std::size_t{1} << 20)) << "round " << round;
  }
  EXPECT_GT(taken, 20);    // some mutations are harmless, or the mutator is useless
  EXPECT_LT(taken, 4000);  // and most are not
}

}  // namespace
}  // namespace thaw::safetensors_fuzz_test
