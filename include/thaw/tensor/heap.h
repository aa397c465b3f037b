/// A heap of its own for the large tensors of the CPU, for programs that train.
///
/// A training step frees activations while it makes gradients, which have other sizes. glibc's heap lays both between
/// small blocks that live longer, so that what was freed lies in pieces and gradients find no room among them: it holds
/// up to a third more than is alive. Here large tensors lie in one range of addresses, best fit
/// (thaw/tensor/best_fit.h), with nothing small in between.
#pragma once

#include <cstddef>

namespace thaw {

/// Tensors smaller than this stay with the allocator that was there before.
constexpr std::size_t kLargeTensorBytes = std::size_t{64} << 10;

/// From now until the program ends, large CPU tensors of all threads come from the heap; it is c10's allocator for the
/// CPU then. Where it has no room, the allocator before it is asked. A second call does nothing. The `thaw` command
/// calls this first of all; a library does not take over its program's allocator, so programs that link thaw choose.
/// @return false, and nothing is changed, where the system reserves no range of addresses of the size of its memory
///         (`ulimit -v`)
bool use_tensor_heap();

/// Bytes of the large tensors that are alive; 0 when the heap is not in use.
[[nodiscard]] std::size_t tensor_heap_bytes();

/// Gives pages that nothing lives on back to the system: the heap's, and those of malloc. They come back, zeroed, when
/// they are used again, which takes time: for moments after which less is needed, not for every step.
void release_free_memory();

}  // namespace thaw
