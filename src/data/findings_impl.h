/// What is wrong with a dataset, gathered so that one message tells all of it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "thaw/core/error.h"

namespace thaw::lerobot {

class Findings {
 public:
  explicit Findings(std::filesystem::path root) : root_(std::move(root)) {}

  /// Two things in the dataset disagree.
  void disagree(const Problem& problem) { add(Kind::mismatch, describe(problem)); }

  /// Runs `check`; an Error it throws becomes a finding. Returns whether it ran through.
  template <class Check>
  bool attempt(Check&& check) {
    try {
      check();
      return true;
    } catch (const IoError& error) {
      add(Kind::io, error.what());
    } catch (const FormatError& error) {
      add(Kind::format, error.what());
    } catch (const MismatchError& error) {
      add(Kind::mismatch, error.what());
    }
    return false;
  }

  [[nodiscard]] bool empty() const { return texts_.empty(); }
  /// @throws IoError, FormatError or MismatchError (the one kind all findings are of, else MismatchError)
  void throw_if_any() const;

 private:
  enum class Kind { io, format, mismatch };
  void add(Kind kind, std::string text);
  [[nodiscard]] std::string message() const;

  std::filesystem::path root_;
  std::vector<Kind> kinds_;
  std::vector<std::string> texts_;
};

}  // namespace thaw::lerobot
