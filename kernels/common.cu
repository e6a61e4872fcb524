// What the search kernels share; this text is put in front of theirs (and not included: a cache hashes one text).
//
// Compile with -DN=2 -DM=4 (any 0 < N <= M <= 64). Blocks are one-dimensional and a multiple of 32 threads.

#if !defined(N) || !defined(M)
#error "compile with -DN=... -DM=..."
#endif

typedef unsigned long long uint64;

// A word is four scores of a byte each.
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline float smaller(float a, float b) { return fminf(a, b); }
__device__ inline unsigned larger(unsigned a, unsigned b) { return __vmaxu4(a, b); }
__device__ inline unsigned smaller(unsigned a, unsigned b) { return __vminu4(a, b); }

// sum + the four |a - b| of a word: one instruction from sm_80 to sm_90, if it is asked for by name.
__device__ inline int add_differences(int sum, unsigned a, unsigned b) {
#if defined(__CUDA_ARCH__)
  asm("vabsdiff4.u32.u32.u32.add %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
#else
  return sum + int(__vsadu4(a, b));
#endif
}

// The COUNT largest of the scores put in, falling, in registers; 0, the least score, where fewer were put in.
template <int COUNT, class Score>
struct Largest {
  Score at[COUNT] = {};

  __device__ void put(Score score) {
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
      const Score held = at[k];
      at[k] = larger(held, score);
      score = smaller(held, score);
    }
  }
};

// What one row of a group retains.
__device__ inline float kept(const float (&score)[M]) {
  if constexpr (N == 2 && M == 4) {
    const float high = fmaxf(score[0], score[1]), low = fminf(score[0], score[1]);
    const float high_2 = fmaxf(score[2], score[3]), low_2 = fminf(score[2], score[3]);
    return fmaxf(high, high_2) + fmaxf(fminf(high, high_2), fmaxf(low, low_2));
  }
  Largest<N, float> top;
#pragma unroll
  for (int i = 0; i < M; ++i) top.put(score[i]);
  float sum = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) sum += top.at[k];
  return sum;
}

// The sum over a block's threads, for every thread, always added in the same order.
template <class Number>
__device__ Number block_sum(Number value) {
  __shared__ Number parts[32];
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
  __syncthreads();  // the parts of the sum before have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  Number sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += parts[warp];
  return sum;
}

// The largest value of a block of THREADS threads, a power of two, and its place, the smallest of equal ones: for every
// thread. Called once in a kernel.
template <int THREADS, class Number, class Place>
__device__ void block_best(Number& value, Place& place) {
  __shared__ Number top[THREADS];
  __shared__ Place at[THREADS];
  const int t = threadIdx.x;
  top[t] = value;
  at[t] = place;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half && (top[t + half] > top[t] || (top[t + half] == top[t] && at[t + half] < at[t]))) {
      top[t] = top[t + half];
      at[t] = at[t + half];
    }
  }
  __syncthreads();
  value = top[0];
  place = at[0];
}

// The k-th 64 random bits, k = 1, 2, ..., of a seed (splitmix64: Steele, Lea and Flood, OOPSLA 2014).
__device__ inline uint64 random_bits(uint64 seed, uint64 k) {
  uint64 bits = seed + k * 0x9E3779B97F4A7C15ull;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
  return bits ^ (bits >> 31);
}

__device__ inline int random_below(uint64 seed, uint64 k, int limit) {
  return int(((random_bits(seed, k) >> 32) * uint64(limit)) >> 32);
}

__device__ inline double random_exponential(uint64 seed, uint64 k) {
  return -log((double(random_bits(seed, k) >> 11) + 0.5) * 0x1p-53);
}
