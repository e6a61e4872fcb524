// Keep the N largest |scores| of every M consecutive columns; ties go to the lower index.
//
// Compile with -DN=2 -DM=4 (any 0 < N <= M <= 32).
// Launch:  one thread a group, grid-stride: any grid, 256 threads a block.
// Memory:  reads 4 bytes and writes 1 byte an element, each once; neighbouring threads read neighbouring groups.
// Work:    M - 1 comparisons an element, in registers.
// Limit:   memory bandwidth, 5 bytes an element.

#if !defined(N) || !defined(M)
#error "compile with -DN=... -DM=..."
#endif

extern "C" __global__ void mask_1d(const float* __restrict__ scores, unsigned char* __restrict__ mask,
                                   long long groups) {
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long group = (long long)blockIdx.x * blockDim.x + threadIdx.x; group < groups; group += stride) {
    float value[M];
#pragma unroll
    for (int i = 0; i < M; ++i) value[i] = fabsf(scores[group * M + i]);
#pragma unroll
    for (int i = 0; i < M; ++i) {
      int rank = 0;
#pragma unroll
      for (int j = 0; j < M; ++j) {
        if (j != i) rank += j < i ? value[j] >= value[i] : value[j] > value[i];
      }
      mask[group * M + i] = rank < N;
    }
  }
}
