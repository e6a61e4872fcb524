// Simulated annealing over swaps of two channels: one block per chain, from the first step to the last. After
// common.cu.
//
// Scores are bytes, four rows per word, [channels][words]; a chain draws the same numbers and makes the same moves as
// on the CPU. Every thread follows the chain for itself (the draws and sums are the same for all), so only sums and
// what thread 0 writes need barriers. Gains and temperatures are in differences, twice the bytes' unit.
//
// Launch:  as many blocks as chains; a multiple of 32 threads, at most 256, as many as words up to there.
// Memory:  a swap reads 16 bytes per word, from L2: two boundaries, two channels; one that is made reads and writes 2 M
//          boundaries more. Scratch: [chain][channels][words] boundaries.
// Work:    2 VABSDIFF4 a word and swap, 3 M a word and swap made.
// Limit:   latency. A step is a chain of draw, read, add, decide: about 2,000 cycles, whatever the width up to 1,024
// rows;
//          so thousands of chains, or none.

// Boundaries of all slots of a group, word by word, and what each slot differs from its own channel.
__device__ inline void refresh(const unsigned* __restrict__ scores, long long words, const int* members,
                               unsigned* __restrict__ bounds, int* __restrict__ own) {
  int sum[M] = {};
  for (long long w = threadIdx.x; w < words; w += blockDim.x) {
    Largest<N + 1, unsigned> top;
#pragma unroll
    for (int i = 0; i < M; ++i) top.put(scores[members[i] * words + w]);
#pragma unroll
    for (int i = 0; i < M; ++i) {
      const unsigned score = scores[members[i] * words + w];
      const unsigned among = __vcmpgeu4(score, top.at[N - 1]);  // the N largest: without it the next one moves up
      const unsigned bound = (among & top.at[N]) | (~among & top.at[N - 1]);
      bounds[i * words + w] = bound;
      sum[i] = add_differences(sum[i], bound, score);
    }
  }
#pragma unroll
  for (int i = 0; i < M; ++i) {
    const int total = block_sum(sum[i]);
    if (threadIdx.x == 0) own[i] = total;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_swaps(const unsigned* __restrict__ scores, long long words, int channels, const uint64* __restrict__ seeds,
                 long long steps, double hot, double cooling, unsigned* bounds, int* own, int* orders, int* best) {
  const long long chain = blockIdx.x;
  const uint64 seed = seeds[chain];
  const int groups = channels / M;
  bounds += chain * channels * words;
  own += chain * channels;
  orders += chain * channels;
  best += chain * channels;
  for (int g = 0; g < groups; ++g) refresh(scores, words, orders + g * M, bounds + g * M * words, own + g * M);
  for (int c = threadIdx.x; c < channels; c += blockDim.x) best[c] = orders[c];
  __syncthreads();
  long long gain = 0, most = 0;
  uint64 drawn = 0;
  double temperature = hot;
  for (long long step = 0; step < steps; ++step) {
    if (step % 64 == 0) temperature *= cooling;
    const int g = random_below(seed, ++drawn, groups);
    int h = random_below(seed, ++drawn, groups - 1);
    h += h >= g;
    const int p = g * M + random_below(seed, ++drawn, M);
    const int q = h * M + random_below(seed, ++drawn, M);
    const unsigned* bound_p = bounds + p * words;
    const unsigned* bound_q = bounds + q * words;
    const unsigned* score_p = scores + orders[p] * words;
    const unsigned* score_q = scores + orders[q] * words;
    int sum = 0;
    for (long long w = threadIdx.x; w < words; w += blockDim.x)
      sum = add_differences(add_differences(sum, bound_p[w], score_q[w]), bound_q[w], score_p[w]);
    const int now = own[p] + own[q];
    const int change = block_sum(sum) - now;
    if (change <= 0 && !(change + temperature * random_exponential(seed, ++drawn) > 0)) continue;
    __syncthreads();  // everyone has read the order
    if (threadIdx.x == 0) {
      const int moved = orders[p];
      orders[p] = orders[q];
      orders[q] = moved;
    }
    __syncthreads();
    refresh(scores, words, orders + g * M, bounds + g * M * words, own + g * M);
    refresh(scores, words, orders + h * M, bounds + h * M * words, own + h * M);
    __syncthreads();
    gain += change;
    if (gain > most) {
      most = gain;
      for (int c = threadIdx.x; c < channels; c += blockDim.x) best[c] = orders[c];
    }
  }
}
