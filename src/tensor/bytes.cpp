#include <ATen/core/Tensor.h>

#include "bytes_impl.h"
#include "thaw/core/error.h"

namespace thaw::detail {

at::Tensor packed_on_cpu(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != at::kStrided || tensor.is_quantized()) {
    throw UsageError(Problem{.where = "the bytes of a tensor",
                             .expected = "a dense tensor",
                             .found = tensor.defined() ? tensor.toString() : "an undefined tensor"});
  }
  return tensor.detach().to(at::kCPU).resolve_conj().resolve_neg().contiguous();
}

}  // namespace thaw::detail
