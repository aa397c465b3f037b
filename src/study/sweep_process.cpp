#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "sweep_process_impl.h"
#include "thaw/core/error.h"

extern char** environ;  // NOLINT: POSIX names it so

namespace thaw {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostOutput = std::size_t{16} << 20;
constexpr int kPollMilliseconds = 50;

/// Two ends of a pipe, both closed on exec.
class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) throw IoError(std::string("pipe: ") + std::strerror(errno));
    ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
  }
  ~Pipe() {
    close_writing();
    ::close(ends_[0]);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  [[nodiscard]] int reading() const { return ends_[0]; }
  [[nodiscard]] int writing() const { return ends_[1]; }
  void close_writing() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  std::array<int, 2> ends_{-1, -1};
};

/// This process's environment with `more` in place of equal names.
std::vector<std::string> environment_with(const std::map<std::string, std::string>& more) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!more.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : more) all.push_back(fmt::format("{}={}", name, value));
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

/// `out`: descriptor that becomes its stdout; negative: none.
pid_t spawn(const ProcessOptions& options, int out) {
  std::vector<std::string> command = options.command;
  std::vector<std::string> environment = environment_with(options.environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (out >= 0) {
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t defaults;
  sigemptyset(&defaults);
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
  pid_t process = -1;
  const int error = ::posix_spawnp(&process, command.front().c_str(), &actions, &attributes, pointers(command).data(),
                                   pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error == 0) return process;
  throw IoError(Problem{
      .where = options.command.front(), .expected = "a program that can be started", .found = std::strerror(error)});
}

ProcessEnd end_of(int status) {
  ProcessEnd end;
  if (WIFSIGNALED(status)) {
    end.signal = WTERMSIG(status);
  } else {
    end.exit_code = WEXITSTATUS(status);
  }
  return end;
}

/// Reads what there is. False: nobody writes any more.
bool drain(int descriptor, std::string& out) {
  std::array<char, 65536> buffer{};
  while (out.size() <= kMostOutput) {
    const ssize_t count = ::read(descriptor, buffer.data(), buffer.size());
    if (count == 0) return false;
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    out.append(buffer.data(), static_cast<std::size_t>(count));
  }
  return true;
}

/// Kills the process with its group and takes its end.
int kill_group(pid_t process) {
  ::kill(-process, SIGKILL);
  int status = 0;
  while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

std::string ProcessEnd::text() const {
  if (timed_out) return "did not end in time and was killed";
  if (stopped) return "was stopped";
  if (too_long) return fmt::format("printed more than {} bytes and was killed", kMostOutput);
  if (signal != 0) return fmt::format("was ended by signal {} ({})", signal, ::strsignal(signal));
  return fmt::format("ended with exit code {}", exit_code);
}

ProcessEnd run_process(const ProcessOptions& options) {
  Pipe pipe;
  const pid_t process = spawn(options, pipe.writing());
  pipe.close_writing();
  const Clock::time_point begin = Clock::now();
  std::string out;
  bool open = true;
  while (true) {
    pollfd wanted{.fd = pipe.reading(), .events = POLLIN, .revents = 0};
    ::poll(&wanted, open ? 1 : 0, kPollMilliseconds);
    // What it started may hold the pipe open longer than it lives: its own end counts.
    int status = 0;
    const bool ended = ::waitpid(process, &status, WNOHANG) == process;
    if (open) open = drain(pipe.reading(), out);
    ProcessEnd end = end_of(status);
    if (!ended) {
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      end.timed_out = options.seconds && seconds > *options.seconds;
      end.too_long = out.size() > kMostOutput;
      end.stopped = options.stop && options.stop();
      if (!end.timed_out && !end.too_long && !end.stopped) continue;
      kill_group(process);
    }
    ::kill(-process, SIGKILL);  // what it left running
    end.out = std::move(out);
    return end;
  }
}

BackgroundProcess::BackgroundProcess(const ProcessOptions& options) : process_(spawn(options, -1)) {}

BackgroundProcess::~BackgroundProcess() {
  if (process_ > 0) kill_group(process_);
}

std::optional<ProcessEnd> BackgroundProcess::end() {
  int status = 0;
  if (process_ <= 0 || ::waitpid(process_, &status, WNOHANG) != process_) return std::nullopt;
  process_ = -1;
  return end_of(status);
}

void BackgroundProcess::send(int signal) const {
  if (process_ > 0) ::kill(process_, signal);
}

}  // namespace thaw
