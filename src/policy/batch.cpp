#include "thaw/policy/batch.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <sstream>

#include "missing_key_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

std::string frame_name(const Sample& sample) {
  return "frame " + std::to_string(sample.index) + " (episode " + std::to_string(sample.episode) + ")";
}

std::string tensor_form(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.scalar_type() << ' ' << tensor.sizes();
  return text.str();
}

/// One side of a disagreement about whether a key exists.
[[noreturn]] void throw_key_of_one(const std::string& key, const Sample& with, const Sample& without) {
  throw MismatchError(Problem{.where = "batch key '" + key + "'",
                              .expected = "the same keys in every frame",
                              .found = "it in " + frame_name(with) + ", none in " + frame_name(without)});
}

void check_same_keys(const Sample& first, const Sample& other) {
  for (const auto& [key, tensor] : first.tensors) {
    if (!other.tensors.contains(key)) throw_key_of_one(key, first, other);
  }
  for (const auto& [key, tensor] : other.tensors) {
    if (!first.tensors.contains(key)) throw_key_of_one(key, other, first);
  }
}

void check_same_form(const std::string& key, const Sample& first, const Sample& other) {
  const at::Tensor& expected = first.tensors.at(key);
  const at::Tensor& found = other.tensors.at(key);
  if (expected.scalar_type() == found.scalar_type() && expected.sizes() == found.sizes()) return;
  throw MismatchError(Problem{.where = "batch key '" + key + "'",
                              .expected = tensor_form(expected) + " as in " + frame_name(first),
                              .found = tensor_form(found) + " in " + frame_name(other)});
}

}  // namespace

const at::Tensor& Batch::at(const std::string& key) const {
  const auto found = tensors.find(key);
  if (found == tensors.end()) detail::throw_missing_key("batch key", key, "it in the batch", tensors);
  return found->second;
}

Batch collate(std::span<const Sample> samples) {
  if (samples.empty()) {
    throw MismatchError(Problem{.where = "collate", .expected = "at least one sample", .found = "none"});
  }
  const Sample& first = samples.front();
  for (const Sample& sample : samples) check_same_keys(first, sample);

  Batch batch;
  for (const auto& [key, tensor] : first.tensors) {
    std::vector<at::Tensor> parts;
    parts.reserve(samples.size());
    for (const Sample& sample : samples) {
      check_same_form(key, first, sample);
      parts.push_back(sample.tensors.at(key));
    }
    batch.tensors.emplace(key, at::stack(parts));
  }
  for (const Sample& sample : samples) {
    batch.tasks.push_back(sample.task);
    batch.indices.push_back(sample.index);
  }
  return batch;
}

Batch to_device(Batch batch, at::Device device) {
  for (auto& [key, tensor] : batch.tensors) tensor = tensor.to(device, /*non_blocking=*/true);
  return batch;
}

void images_to_float(Batch& batch) {
  for (auto& [key, tensor] : batch.tensors) {
    const bool image = key.starts_with("observation.image") && tensor.scalar_type() == at::kByte;
    if (image) tensor = tensor.to(at::kFloat) / 255.0;
  }
}

}  // namespace thaw
