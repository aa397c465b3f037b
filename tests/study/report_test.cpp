#include "thaw/study/report.h"

#include <gmock/gmock.h>

#include <regex>

#include "study/studies.h"
#include "thaw/core/error.h"

namespace thaw::report_test {
namespace {

using testing::HasSubstr;
using testing::Not;
using toy::message_of;

SweepResult result(std::int64_t blocks, std::uint64_t seed, double loss) {
  SweepResult each{.point = {.id = "id" + std::to_string(blocks) + std::to_string(seed),
                             .freeze = "language=" + std::to_string(blocks),
                             .blocks = {{"language", blocks}},
                             .plan_digest = "d",
                             .learning_rate = 1e-3,
                             .seed = seed,
                             .steps = 10},
                   .held_out = EvaluationResult{.loss = loss, .metrics = {{"action_mse", 2 * loss}}, .samples = 3},
                   .trainable_parameters = 1000 * (blocks + 1),
                   .planned_peak_bytes = 5'000'000 * (blocks + 1),
                   .head_bytes = 4000};
  each.held_out->series["action_mse_by_step"] = {loss, 2 * loss, 3 * loss};
  each.times = {.seconds = 1.0 + static_cast<double>(blocks), .samples_per_second = 10.0};
  return each;
}

std::vector<SweepResult> results() {
  return {result(0, 1, 3.0), result(0, 2, 3.1), result(1, 1, 1.3),
          result(1, 2, 1.4), result(4, 1, 1.2), result(4, 2, 1.6)};
}

const ReportOptions kOptions{.subtitle = "base trained on data", .steps = 10};

/// The elements that open and close, in order; fails the test where they do not nest.
void expect_well_formed(const std::string& html) {
  std::vector<std::string> open;
  const std::regex tag(R"(<(/?)([a-zA-Z0-9]+)([^<>]*)>)");
  const std::set<std::string> void_elements{"meta", "link", "br"};
  for (auto match = std::sregex_iterator(html.begin(), html.end(), tag); match != std::sregex_iterator(); ++match) {
    const std::string name = (*match)[2];
    if (void_elements.contains(name) || (*match)[3].str().ends_with('/')) continue;
    if ((*match)[1].length() == 0) {
      open.push_back(name);
      continue;
    }
    ASSERT_FALSE(open.empty()) << "</" << name << "> closes nothing";
    ASSERT_EQ(open.back(), name);
    open.pop_back();
  }
  EXPECT_TRUE(open.empty()) << open.back() << " is left open";
}

TEST(SweepReport, ThePageIsWholeAndNeedsNothingFromElsewhere) {
  const std::string html = sweep_report(results(), kOptions);
  expect_well_formed(html);
  for (const char* outside : {"http:", "https:", "<script", "src=", "@import", "url("}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(html, HasSubstr("width=device-width"));
}

TEST(SweepReport, ItBeginsWithThePickAndItsReason) {
  const std::string html = sweep_report(results(), kOptions);
  // best: 1.35 (one block) with a standard error of 0.05; four blocks: 1.4
  EXPECT_THAT(html, HasSubstr("<p class=\"answer\"><a href=\"#c2\">language=1</a></p>"));
  EXPECT_THAT(html, HasSubstr("the fewest trainable parameters (2000)"));
}

TEST(SweepReport, EveryMarkLeadsToItsConfigurationAndEveryConfigurationToItsLines) {
  const std::string html = sweep_report(results(), kOptions);
  const std::regex link(R"re(href="#([^"]+)")re");
  std::size_t links = 0;
  for (auto match = std::sregex_iterator(html.begin(), html.end(), link); match != std::sregex_iterator(); ++match) {
    ++links;
    EXPECT_THAT(html, HasSubstr("id=\"" + (*match)[1].str() + "\""));
  }
  EXPECT_GE(links, 1U + 3U * 3U + 6U);
  std::size_t line = 0;
  for (const SweepResult& each : results()) {
    EXPECT_THAT(html, HasSubstr("<tr id=\"r-" + each.point.id + "\"><td>" + std::to_string(++line) + "</td>"));
  }
}

TEST(SweepReport, MarksSayInWordsWhatTheyShow) {
  const std::string html = sweep_report(results(), kOptions);
  EXPECT_THAT(html, HasSubstr("role=\"img\" aria-label=\"language=1, rate 0.001: held-out loss 1.35 ± 0.05\""));
  EXPECT_THAT(html, HasSubstr("last blocks of language that train"));
  EXPECT_THAT(html, HasSubstr("Open-loop action error by step of the chunk"));
}

TEST(SweepReport, PrunedBasesStandBesideTheWholeInAShapeOfTheirOwn) {
  std::vector<SweepResult> all = results();
  const std::string before = sweep_report(all, kOptions);
  EXPECT_THAT(before, testing::AllOf(Not(HasSubstr("pruned")), Not(HasSubstr("<path class=\"dot\""))));
  for (SweepResult pruned : {result(1, 1, 1.5), result(1, 2, 1.7)}) {
    pruned.point.id += "p";
    pruned.point.pruning = {.count = 2, .removed = {{"expert", {1, 2}}, {"language", {1, 2}}}};
    all.push_back(pruned);
  }
  const std::string html = sweep_report(all, kOptions);
  expect_well_formed(html);
  EXPECT_THAT(html, HasSubstr("<path class=\"dot\" role=\"img\" aria-label=\"language=1 with 2 pruned, rate 0.001: "
                              "held-out loss 1.6 ± 0.1\""));
  EXPECT_THAT(html, HasSubstr("● the whole policy, ■ 2 pruned."));
  EXPECT_THAT(html, HasSubstr("<td>2 (expert 1, 2; language 1, 2)</td>"));
  const auto places = [](const std::string& page) {
    const std::regex dot(R"re(aria-label="language=1[ ,][^"]*" (?:cx="|d="M)([0-9.]+))re");
    std::vector<double> found;
    for (auto match = std::sregex_iterator(page.begin(), page.end(), dot); match != std::sregex_iterator(); ++match) {
      found.push_back(std::stod((*match)[1]));
    }
    return found;
  };
  ASSERT_EQ(places(html).size(), 6U) << "two in each of three charts";
  EXPECT_LT(places(html)[0], places(html)[1]) << "side by side, the whole policy first";
}

TEST(SweepReport, TextOfOthersCannotBecomeMarkup) {
  std::vector<SweepResult> all = results();
  for (SweepResult& each : all) {
    each.point.freeze = "<script>alert('\"&')</script>";
    each.error = "<b>bad</b>";
    each.evaluator = {{"x", "</code><img>"}};
  }
  ReportOptions options = kOptions;
  options.subtitle = "<i>";
  const std::string html = sweep_report(all, options);
  expect_well_formed(html);
  for (const char* markup : {"<script", "<b>", "<img", "<i>"}) EXPECT_THAT(html, Not(HasSubstr(markup)));
}

TEST(SweepReport, FailuresAreToldAndASweepWithoutResultsHasAPageToo) {
  SweepResult failed = result(2, 1, 0.0);
  failed.held_out.reset();
  failed.error = "training diverged";
  EXPECT_THAT(sweep_report(std::vector{failed}, kOptions),
              testing::AllOf(HasSubstr("training diverged"), HasSubstr("0 (1 failed)"),
                             HasSubstr("No configuration has results with every seed yet.")));
  expect_well_formed(sweep_report({}, kOptions));
}

TEST(SweepReport, ImportanceOfBlocksStandsBesideWhenItIsGiven) {
  EXPECT_THAT(sweep_report(results(), kOptions), Not(HasSubstr("Importance of blocks")));
  ReportOptions options = kOptions;
  options.importance = importance_from_json(
      parse_json(R"({"importance":[{"stack":"language","measure":"influence","values":[0.5,0.25]}]})", "test"), "test");
  EXPECT_THAT(sweep_report(results(), options),
              testing::AllOf(HasSubstr("Importance of blocks"), HasSubstr("influence of language"),
                             HasSubstr("By block: 0.5 0.25")));
  EXPECT_THAT(message_of<FormatError>([] {
                (void)importance_from_json(Json{{"importance", 3}}, "file.json");
              }),
              HasSubstr("file.json"));
}

TEST(SweepTable, ItFitsIntoAHundredColumnsAndMarksThePick) {
  std::vector<SweepResult> all = results();
  all[0].point.freeze = all[1].point.freeze = std::string(60, 'x');
  const std::string table = sweep_table(all, kOptions);
  std::istringstream lines(table);
  std::size_t rows = 0;
  for (std::string line; std::getline(lines, line) && !line.empty(); ++rows) EXPECT_LE(line.size(), 100U) << line;
  EXPECT_EQ(rows, 4U);
  EXPECT_THAT(table, testing::ContainsRegex("language=1 .*1\\.35 \\+-0\\.05 .* \\*\n"));
}

}  // namespace
}  // namespace thaw::report_test
