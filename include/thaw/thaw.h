/// Everything a program that fine-tunes policies needs. Single rooms can be included alone (thaw/freeze/plan.h, …).
#pragma once

#include "thaw/core/error.h"
#include "thaw/data/dataset.h"
#include "thaw/data/loader.h"
#include "thaw/data/statistics.h"
#include "thaw/freeze/apply.h"
#include "thaw/freeze/block_stacks.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/freeze/plan.h"
#include "thaw/models/registry.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/head.h"
#include "thaw/train/merge.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"
