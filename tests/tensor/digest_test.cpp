#include "thaw/tensor/digest.h"

#include <limits>

#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/core/sha256.h"

namespace thaw::digest_test {
namespace {

TEST(TensorDigest, IsOverTypeShapeAndBytes) {
  const at::Tensor tensor = at::tensor({1, 2, 3, 4, 5, 6}, at::kByte).reshape({2, 3});
  EXPECT_EQ(tensor_digest(tensor), sha256_hex("uint8 [2,3]\n\x01\x02\x03\x04\x05\x06"));
}

TEST(TensorDigest, DoesNotDependOnStrides) {
  const at::Tensor matrix = at::arange(6.0).reshape({2, 3});
  EXPECT_EQ(tensor_digest(matrix.t()), tensor_digest(matrix.t().contiguous()));
  EXPECT_EQ(tensor_digest(matrix.requires_grad_(true)), tensor_digest(matrix.detach()));
}

TEST(TensorDigest, TellsApartTypeShapeSignOfZeroAndNanPayload) {
  const at::Tensor zeros = at::zeros({2, 3});
  EXPECT_NE(tensor_digest(zeros), tensor_digest(zeros.reshape({3, 2})));
  EXPECT_NE(tensor_digest(zeros), tensor_digest(zeros.to(at::kInt)));
  EXPECT_NE(tensor_digest(zeros), tensor_digest(-zeros));
  const at::Tensor nan = at::full({1}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  EXPECT_NE(tensor_digest(nan), tensor_digest(-nan));
  EXPECT_EQ(tensor_digest(nan), tensor_digest(nan.clone()));
}

TEST(TensorDigest, EmptyTensorsOfDifferentShapeDiffer) {
  EXPECT_NE(tensor_digest(at::zeros({0, 3})), tensor_digest(at::zeros({3, 0})));
}

TEST(TensorDigest, RefusesATensorWithoutBytes) {
  EXPECT_THAT(test::message_of<UsageError>([] { static_cast<void>(tensor_digest(at::Tensor())); }),
              ::testing::HasSubstr("an undefined tensor"));
}

}  // namespace
}  // namespace thaw::digest_test
