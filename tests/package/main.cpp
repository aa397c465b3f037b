// Uses the installed package as a stranger would: the umbrella header, a named configuration, a freeze, a plan.
#include <thaw/thaw.h>

#include <iostream>

int main() {
  const thaw::ModelLayout layout = thaw::layout_of_named_config("smolvla");
  const thaw::FreezePlan plan = thaw::LayerFreezePolicy::parse("vision=0,language=2,expert=all").resolve(layout);
  std::cout << plan.summary() << '\n';
  return plan.trains("model.vlm_with_expert.lm_expert.norm.weight") ? 0 : 1;
}
