#include "thaw/tensor/digest.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "bytes_impl.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/dtype.h"

namespace thaw {

std::string tensor_digest(const at::Tensor& tensor) {
  const at::Tensor packed = detail::packed_on_cpu(tensor);
  Sha256 digest;
  digest.update(fmt::format("{} [{}]\n", dtype_name(packed.scalar_type()), fmt::join(packed.sizes(), ",")));
  digest.update(detail::bytes_of(packed));
  return digest.hex();
}

}  // namespace thaw
