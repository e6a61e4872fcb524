// Just enough of CUDA to run a kernel without barriers on a CPU: threads one after the other, blocks likewise.
#pragma once
#include <cmath>
#define __global__
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};
static thread_local Dim3 gridDim, blockDim, blockIdx, threadIdx;

template <class Kernel, class... Arguments>
void launch(unsigned grid, unsigned block, Kernel kernel, Arguments... arguments) {
  gridDim.x = grid;
  blockDim.x = block;
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel(arguments...);
}
