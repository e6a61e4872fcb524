// One move of annealed assignment for many chains: before and after the product of product.cu and the matching, which
// is the host's. After common.cu.
//
// Scores are bytes, four rows a word, [channels][words]. A chain draws the same numbers as on the CPU: in each move one
// below M a group, then one exponential a group.

// Take the channel out of one random slot of every group: slots, their channels (index) and boundaries, [chain][group].
// Launch:  a block of 128 threads a group (x) and chain (y); groups is gridDim.x.
// Memory:  reads 4 (M - 1) bytes a word and writes 4.          Work: 2 N (M - 1) byte max and min of words.
extern "C" __global__ void __launch_bounds__(128)
    open_slots(const unsigned* __restrict__ scores, long long words, const int* __restrict__ orders,
               const uint64* __restrict__ seeds, long long move, int* __restrict__ slots, int* __restrict__ index,
               unsigned* __restrict__ bounds, int* __restrict__ sums) {
  const int groups = gridDim.x, group = blockIdx.x;
  const long long chain = blockIdx.y, cell = chain * groups + group;
  const int* members = orders + cell * M;
  const int out = random_below(seeds[chain], move * 2 * groups + group + 1, M);
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

// What each deal costs, in place of the sums: staying put a random charge, another channel the difference to staying.
// Launch:  a block of 128 threads a group (x) and chain (y).
// Memory:  reads and writes 4 bytes an entry, once: the limit.
extern "C" __global__ void __launch_bounds__(128)
    charge(int* __restrict__ sums, const uint64* __restrict__ seeds, long long move, double temperature) {
  const int groups = gridDim.x, group = blockIdx.x;
  const long long chain = blockIdx.y;
  int* row = sums + (chain * groups + group) * groups;
  const int stay = row[group];
  const int noise = int(temperature * random_exponential(seeds[chain], (move * 2 + 1) * groups + group + 1));
  __syncthreads();  // everyone has read what one of them overwrites
  for (int h = threadIdx.x; h < groups; h += blockDim.x) row[h] = h == group ? noise : stay - row[h];
}

// Put channel target[g] of the open ones into the open slot of group g. A thread a group and chain, 256 a block.
extern "C" __global__ void __launch_bounds__(256)
    close_slots(const int* __restrict__ slots, const int* __restrict__ index, const int* __restrict__ target,
                int groups, int chains, int* __restrict__ orders) {
  const long long cell = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (cell >= (long long)chains * groups) return;
  const long long chain = cell / groups;
  orders[chain * groups * M + slots[cell]] = index[chain * groups + target[cell]];
}
