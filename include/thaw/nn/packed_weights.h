/// Weights in the layout that the matrix product wants.
#pragma once

namespace thaw::nn {

/// While it lives, float32 weights on the CPU that this thread multiplies with outside a graph are laid out for the
/// product once and used so again: for code that goes through the same weights several times, like denoising. It holds
/// a second copy of them. Nothing may write to the weights meanwhile. Scopes may nest; the outermost one counts: hold
/// one around a loop that samples chunk after chunk, and no chunk lays them out again.
class PackedWeights {
 public:
  PackedWeights();
  ~PackedWeights();
  PackedWeights(const PackedWeights&) = delete;
  PackedWeights& operator=(const PackedWeights&) = delete;

 private:
  bool outermost_ = false;
};

}  // namespace thaw::nn
