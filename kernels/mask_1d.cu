// Keep the N largest |scores| of every M consecutive columns; ties go to the lower index.
//
// Compile with -DN=2 -DM=4 (any 0 < N <= M <= 32). Scores and mask start at multiples of 16 bytes.
// Launch:  one thread per group, grid-stride: any grid, 256 threads per block.
// Memory:  reads 4 bytes and writes 1 byte per element, each once; neighbouring threads read neighbouring groups, four
//          scores at a time where M is a multiple of four.
// Work:    M - 1 comparisons per element, in registers: of the bits, as whole numbers, which for positive floats have
//          the order of the floats, and stay different where a compiler takes the least ones for zero.
// Limit:   memory bandwidth, 5 bytes per element.

#if !defined(N) || !defined(M)
#error "compile with -DN=... -DM=..."
#endif

__device__ inline unsigned magnitude(float score) { return __float_as_uint(score) & 0x7fffffffu; }

extern "C" __global__ void __launch_bounds__(256)
    mask_1d(const float* __restrict__ scores, unsigned char* __restrict__ mask, long long groups) {
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long group = (long long)blockIdx.x * blockDim.x + threadIdx.x; group < groups; group += stride) {
    const float* score = scores + group * M;
    unsigned char* kept = mask + group * M;
    unsigned value[M];
    if constexpr (M % 4 == 0) {
#pragma unroll
      for (int i = 0; i < M; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(score + i);
        value[i] = magnitude(four.x);
        value[i + 1] = magnitude(four.y);
        value[i + 2] = magnitude(four.z);
        value[i + 3] = magnitude(four.w);
      }
    } else {
#pragma unroll
      for (int i = 0; i < M; ++i) value[i] = magnitude(score[i]);
    }
    unsigned four = 0;
#pragma unroll
    for (int i = 0; i < M; ++i) {
      int rank = 0;
#pragma unroll
      for (int j = 0; j < M; ++j) {
        if (j != i) rank += j < i ? value[j] >= value[i] : value[j] > value[i];
      }
      if constexpr (M % 4 == 0) {
        four = i % 4 == 0 ? unsigned(rank < N) : four | unsigned(rank < N) << 8 * (i % 4);
        if (i % 4 == 3) *reinterpret_cast<unsigned*>(kept + i - 3) = four;
      } else {
        kept[i] = rank < N;
      }
    }
  }
}
