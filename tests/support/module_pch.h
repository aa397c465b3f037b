#pragma once
#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "pch.h"
