// thaw bench: how long the parts of a training step, sampling, data loading and the prefix cache take on this machine.
#include "bench.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "flags.h"
#include "thaw/core/names.h"

namespace thaw::cli {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Of every number that all rounds have.
Json medians(const Json& rounds) {
  Json result = Json::object();
  for (const auto& [key, value] : rounds.front().items()) {
    if (!value.is_number()) continue;
    std::vector<double> values;
    for (const Json& round : rounds) values.push_back(round.at(key).get<double>());
    result[key] = median(values);
  }
  return result;
}

/// One line, at once: whoever asked is waiting.
void answer(const Json& line) { std::cout << line.dump() << std::endl; }

void answer_lines(const std::function<Json()>& round, const std::map<std::string, std::function<Json()>>& commands) {
  for (std::string word; std::getline(std::cin, word);) {
    if (word == "go") {
      answer(round());
    } else if (const auto found = commands.find(word); found != commands.end()) {
      answer(found->second());
    } else {
      std::vector<std::string> known{"go"};
      for (const auto& [name, command] : commands) known.push_back(name);
      throw UsageError("standard input: unknown command '" + word + "'. " + suggest(word, known));
    }
  }
}

}  // namespace

void RoundFlags::add_to(CLI::App& command) {
  command.add_option("--rounds", rounds, "measured rounds behind one that warms up");
  command.add_option("--threads", threads, "of LibTorch's operators; 0: as LibTorch chooses");
  command.add_flag("--interactive", interactive,
                   "one round for each line \"go\" on standard input, answered by one line of JSON");
}

void RoundFlags::apply() const {
  if (rounds < 1 || rounds > 10'000) {
    throw UsageError(Problem{.where = "--rounds", .expected = "1 to 10000", .found = std::to_string(rounds)});
  }
  if (threads < 0 || threads > 1024) {
    throw UsageError(Problem{.where = "--threads", .expected = "0 to 1024", .found = std::to_string(threads)});
  }
  if (threads > 0) at::set_num_threads(threads);
}

Json run_rounds(const RoundFlags& flags, const Json& facts, const std::function<Json()>& round,
                const std::map<std::string, std::function<Json()>>& commands) {
  Json document{{"facts", facts}};
  document["facts"]["threads"] = at::get_num_threads();
  if (flags.interactive) {
    answer(document["facts"]);
    answer_lines(round, commands);
    return document;
  }
  static_cast<void>(round());
  document["rounds"] = Json::array();
  for (std::int64_t i = 0; i < flags.rounds; ++i) document["rounds"].push_back(round());
  document["median"] = medians(document["rounds"]);
  return document;
}

void print_rounds(const Json& document, const RoundFlags& flags, bool json) {
  if (flags.interactive) return;
  if (json) {
    std::cout << document.dump(2) << '\n';
    return;
  }
  for (const auto& [key, value] : document["facts"].items()) {
    if (value.is_primitive()) std::cout << fmt::format("{:<28} {}\n", key, value.dump());
  }
  std::cout << fmt::format("median of {} rounds:\n", document["rounds"].size());
  for (const auto& [key, value] : document["median"].items()) {
    std::cout << fmt::format("{:<28} {:.6g}\n", key, value.get<double>());
  }
}

void add_bench_command(CLI::App& app, Outcome& outcome) {
  CLI::App* bench = app.add_subcommand("bench", "measures a training step, sampling, data loading or the prefix cache");
  bench->require_subcommand(1);
  add_bench_step_command(*bench, outcome);
  add_bench_sample_command(*bench, outcome);
  add_bench_data_command(*bench, outcome);
  add_bench_cache_command(*bench, outcome);
}

}  // namespace thaw::cli
