// For the rooms that are full of operators and of torch::nn::Module. torch/nn.h is not among it: hardly a file needs more of
// torch::nn than Module.
#pragma once
#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "pch.h"
