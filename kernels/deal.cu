// One move of annealed assignment for many chains: before and after the product of product.cu. After matching.cu.
//
// Scores are bytes, four rows per word, [channels][words]. A chain draws the same numbers as on the CPU: in each move
// one below M per group, then one exponential per group. It counts its moves in `made`, so a move's launches are
// those of the last, and nothing comes back to the host between two of them.

// Take the channel out of one random slot of every group: slots, their channels (index) and boundaries, [chain][group].
// Launch:  one block of 128 threads per group (x) and chain (y); groups is gridDim.x.
// Memory:  reads 4 (M - 1) bytes per word and writes 4.          Work: 2 N (M - 1) byte max and min of words.
extern "C" __global__ void __launch_bounds__(128)
    open_slots(const unsigned* __restrict__ scores, long long words, const int* __restrict__ orders,
               const uint64* __restrict__ seeds, const long long* __restrict__ made, int* __restrict__ slots,
               int* __restrict__ index, unsigned* __restrict__ bounds, int width, int* __restrict__ sums) {
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
  for (int h = threadIdx.x; h < width; h += blockDim.x) sums[cell * width + h] = 0;
  if (threadIdx.x == 0) {
    slots[cell] = group * M + out;
    index[cell] = members[out];
  }
}

// Deal the open channels back, the best deal first. It costs a random charge to stay, and stay - sums to get another
// channel. The charge goes into the diagonal of sums, so that every cost is stay - sums. Scratch is [chain][2][groups].
// Launch:  one block of STARTERS threads per chain; up to MOST_GROUPS groups, lines of sums `width` apart: groups, up
// to
//          the next multiple of 128 where that is 128, else of 256.
// Memory, limit: matching.cu.
extern "C" __global__ void __launch_bounds__(STARTERS)
    deal_back(int* sums, int groups, int width, const uint64* __restrict__ seeds, const double* __restrict__ noise,
              long long* made, const int* __restrict__ slots, const int* __restrict__ index, int* scratch,
              int* orders) {
  __shared__ Matched now;
  const long long chain = blockIdx.x, move = made[chain];
  sums += chain * groups * width;
  slots += chain * groups;
  index += chain * groups;
  orders += chain * groups * M;
  int* stay = scratch + chain * 2 * groups;
  for (int g = threadIdx.x; g < groups; g += STARTERS) {
    int& own = sums[(long long)g * width + g];
    stay[g] = own;
    own -= int(noise[move] * random_exponential(seeds[chain], (move * 2 + 1) * groups + g + 1));
  }
  __syncthreads();
  if (threadIdx.x == 0) made[chain] = move + 1;
  const Matching it = {sums, groups, width, stay, stay + groups};
  start(it, now);
  bid(it, now);
  const int walkers = width <= 128 ? 32 : width / COLUMNS;
  if (threadIdx.x >= walkers) return;
  if (width <= 128)
    finish<4>(it, now, OneWarp());
  else if (walkers == 32)
    finish<COLUMNS>(it, now, OneWarp());
  else
    finish<COLUMNS>(it, now, Warps{walkers / 32, now.parts});
  for (int g = threadIdx.x; g < groups; g += walkers) orders[slots[g]] = index[now.column_of[g]];
}
