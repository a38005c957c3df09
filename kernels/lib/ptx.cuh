// The instructions that kernels use, by name, one wrapper each: inline PTX under NVRTC, and an emulation of the same meaning when the kernels
// are compiled as C++ for the CPU. NVRTC brings no headers, so nothing here includes any but our own.
#pragma once
#include "lib/types.cuh"
#include "lib/memory.cuh"
#include "lib/mma.cuh"
#include "lib/wgmma.cuh"
