// Runs the thaw command as a user would, and temporary folders to run it in.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/paths.h"

namespace thaw::test {

namespace fs = std::filesystem;

/// A folder that is gone when the test ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "thaw-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }
  [[nodiscard]] fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

struct CommandResult {
  int code = -1;  ///< exit code; 128 + signal when killed
  std::string out;
  std::string err;
};

inline std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_file(const fs::path& file, const std::string& content) {
  std::ofstream(file, std::ios::binary) << content;
}

/// A child process of the thaw command with its output in files.
class Command {
 public:
  explicit Command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), thaw_command());
    std::vector<char*> words;
    for (std::string& argument : arguments) words.push_back(argument.data());
    words.push_back(nullptr);
    process_ = fork();
    if (process_ != 0) return;
    redirect("out", STDOUT_FILENO);
    redirect("err", STDERR_FILENO);
    execv(words[0], words.data());
    _exit(127);
  }

  [[nodiscard]] pid_t process() const { return process_; }

  CommandResult wait() {
    int status = 0;
    waitpid(process_, &status, 0);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return {code, read_file(folder_ / "out"), read_file(folder_ / "err")};
  }

 private:
  void redirect(const std::string& name, int descriptor) const {
    const int file = open((folder_ / name).c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    dup2(file, descriptor);
  }

  TemporaryFolder folder_;
  pid_t process_ = -1;
};

inline CommandResult run_thaw(std::vector<std::string> arguments) { return Command(std::move(arguments)).wait(); }

/// Every file below `folder` with its size, for "nothing was written or lost".
inline std::string listing(const fs::path& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    lines.push_back(fs::relative(entry.path(), folder).string() + " " + std::to_string(entry.file_size()));
  }
  std::sort(lines.begin(), lines.end());
  std::ostringstream text;
  for (const std::string& line : lines) text << line << '\n';
  return text.str();
}

}  // namespace thaw::test
