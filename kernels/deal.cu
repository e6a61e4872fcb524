// One move of annealed assignment for many chains: before and after the product of product.cu. After matching.cu.
//
// Scores are bytes, four rows a word, [channels][words]. A chain draws the same numbers as on the CPU: in each move one
// below M a group, then one exponential a group. It counts its moves in `made`, so a move's launches are those of the
// last, and nothing comes back to the host between two of them.

// Take the channel out of one random slot of every group: slots, their channels (index) and boundaries, [chain][group].
// Launch:  a block of 128 threads a group (x) and chain (y); groups is gridDim.x.
// Memory:  reads 4 (M - 1) bytes a word and writes 4.          Work: 2 N (M - 1) byte max and min of words.
extern "C" __global__ void __launch_bounds__(128)
    open_slots(const unsigned* __restrict__ scores, long long words, const int* __restrict__ orders,
               const uint64* __restrict__ seeds, const long long* __restrict__ made, int* __restrict__ slots,
               int* __restrict__ index, unsigned* __restrict__ bounds, int* __restrict__ sums) {
  const int groups = gridDim.x, group = blockIdx.x;
  const long long chain = blockIdx.y, cell = chain * groups + group;
  const int* members = orders + cell * M;
  const int out = random_below(seeds[chain], made[chain] * 2 * groups + group + 1, M);
  for (long long w = threadIdx.x; w < words; w += blockDim.x) {
    Largest<N, unsigned> top;
#pragma unroll
    for (int i = 0; i < M; ++i) top.put(i == out ? 0u : scores[members[i] * words + w]);
    bounds[cell * words + w] = top.at[N - 1];
  }
  for (int h = threadIdx.x; h < groups; h += blockDim.x) sums[cell * groups + h] = 0;
  if (threadIdx.x == 0) {
    slots[cell] = group * M + out;
    index[cell] = members[out];
  }
}

// Deal the open channels back, the best deal first. It costs a random charge to stay, and stay - sums to get another
// channel. The charge goes into the diagonal of sums, so that every cost is stay - sums.
// Launch:  a block of STARTERS threads a chain; scratch is [chain][6][groups].
// Memory, limit: matching.cu.
extern "C" __global__ void __launch_bounds__(STARTERS)
    deal_back(int* sums, int groups, const uint64* __restrict__ seeds, const double* __restrict__ noise,
              long long* made, const int* __restrict__ slots, const int* __restrict__ index, int* scratch,
              int* orders) {
  __shared__ int parts[2][32];
  const long long chain = blockIdx.x, move = made[chain];
  sums += chain * groups * groups;
  slots += chain * groups;
  index += chain * groups;
  orders += chain * groups * M;
  scratch += chain * 6 * groups;
  Matching it = {sums,
                 groups,
                 scratch,
                 scratch + groups,
                 scratch + 2 * groups,
                 scratch + 3 * groups,
                 scratch + 4 * groups,
                 scratch + 5 * groups};
  for (int g = threadIdx.x; g < groups; g += STARTERS) {
    int& stay = sums[(long long)g * groups + g];
    it.stay[g] = stay;
    stay -= int(noise[move] * random_exponential(seeds[chain], (move * 2 + 1) * groups + g + 1));
  }
  __syncthreads();
  if (threadIdx.x == 0) made[chain] = move + 1;
  start(it);
  const int warps = (groups + 32 * COLUMNS - 1) / (32 * COLUMNS);
  if (threadIdx.x >= 32 * warps) return;
  const Walkers walkers = {warps, parts};
  if (groups <= 32 * 4)
    finish<4>(it, walkers);
  else
    finish<COLUMNS>(it, walkers);
  for (int g = threadIdx.x; g < groups; g += 32 * warps) orders[slots[g]] = index[it.column_of[g]];
}
