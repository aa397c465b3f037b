// Fine-tunes the last blocks of a LeRobot policy on a LeRobot dataset, proves the freeze, and writes a LeRobot
// checkpoint. finetune_smolvla BASE_FOLDER TOKENIZER_FOLDER DATASET_FOLDER RUN_FOLDER [STEPS]
#include <thaw/thaw.h>

#include <iostream>
#include <string>

int main(int argc, char** argv) try {
  if (argc < 5) throw thaw::UsageError("usage: finetune_smolvla BASE TOKENIZER DATASET RUN [STEPS]");
  const std::filesystem::path base = argv[1];
  const std::filesystem::path run = argv[4];

  auto policy = thaw::load_policy(base, {.tokenizer_folder = argv[2]});
  const auto freeze = thaw::LayerFreezePolicy{}.none("vision").last("language", 2).all("expert").train("*state_proj*");
  const thaw::FreezePlan plan = freeze.resolve(*policy);  // throws when a rule matches nothing
  std::cout << plan.summary() << '\n';                    // what trains, where autograd starts and why, what it costs

  thaw::Trainer trainer(policy, plan,
                        {.steps = argc > 5 ? std::stol(argv[5]) : 100,
                         .batch_size = 8,
                         .precision = thaw::Precision::fp32,
                         .output = run,
                         .eval_split = 0.25});
  const thaw::FitResult result = trainer.fit(thaw::LeRobotDataset::open(argv[3]));
  std::cout << "held-out loss " << result.evaluation->loss << " after " << result.step << " steps\n";

  thaw::require_verified(thaw::verify_run(run, *thaw::load_policy(base)->module()));
  thaw::merge_head(base, run / "heads/last/head.safetensors", run / "merged");
  return static_cast<int>(result.exit_code());
} catch (const thaw::Error& error) {
  std::cerr << error.what() << '\n';
  return static_cast<int>(error.exit_code());
}
