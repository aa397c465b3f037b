#include "thaw/core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>

#include <memory>
#include <mutex>

#include "printable_impl.h"
#include "stderr_line_impl.h"

namespace thaw {
namespace {

/// Prints above a progress line instead of through it.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string text = detail::printable({message.payload.data(), message.payload.size()});
    const bool warning = message.level >= spdlog::level::warn;
    detail::StderrLine::instance().print(warning ? "warning: " + text : text);
  }
  void flush_() override {}
};

// Not in spdlog's registry: a program that embeds thaw keeps its own default logger.
spdlog::logger& logger() {
  static spdlog::logger instance("thaw", std::make_shared<StderrSink>());
  return instance;
}

spdlog::string_view_t view(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

void log_info(std::string_view message) { logger().log(spdlog::level::info, view(message)); }

void log_warning(std::string_view message) { logger().log(spdlog::level::warn, view(message)); }

void set_quiet(bool quiet) { logger().set_level(quiet ? spdlog::level::warn : spdlog::level::info); }

}  // namespace thaw
