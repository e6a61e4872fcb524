// The best way to cut the channels of each of many sets of groups into groups again. After common.cu.
//
// A set of three groups at 2:4 has 495 groups in 5,775 partitions: each group is scored once (subset_values), then
// every partition is a sum of three numbers (best_partitions).

constexpr int SET = 32;       // channels of a set, at most
constexpr int SET_ROWS = 64;  // rows in shared memory at a time

// channels[k] = the channels of set k, rising; worth[k][s] = what its subset s retains.
// Launch:  one block of 256 threads per set, one subset per thread, as often as it takes.
// Memory:  reads 4 bytes per row and channel for every 256 subsets, from L2.
// Work:    9 max, min and add per row and subset at 2:4, on M words from shared memory without bank conflicts.
// Limit:   shared memory: a warp reads M rows of 32 words for that work.
extern "C" __global__ void __launch_bounds__(256)
    subset_values(const float* __restrict__ values, long long rows, const int* __restrict__ order,
                  const int* __restrict__ sets, int members, const int* __restrict__ subsets, int count,
                  int* __restrict__ channels, double* __restrict__ worth) {
  __shared__ int channel[SET];
  __shared__ float tile[SET_ROWS][SET + 1];
  const int size = members * M;
  const long long k = blockIdx.x;
  if (threadIdx.x == 0) {
    for (int c = 0; c < size; ++c) {  // insertion sort: a few dozen steps
      const int next = order[sets[k * members + c / M] * M + c % M];
      int at = c;
      for (; at > 0 && channel[at - 1] > next; --at) channel[at] = channel[at - 1];
      channel[at] = next;
    }
  }
  __syncthreads();
  if (int(threadIdx.x) < size) channels[k * size + threadIdx.x] = channel[threadIdx.x];
  for (int first = 0; first < count; first += blockDim.x) {
    const int subset = first + threadIdx.x;
    int member[M];
#pragma unroll
    for (int i = 0; i < M; ++i) member[i] = subset < count ? subsets[subset * M + i] : 0;
    double total = 0;
    for (long long start = 0; start < rows; start += SET_ROWS) {
      __syncthreads();  // the tile before has been used
      for (int entry = threadIdx.x; entry < size * SET_ROWS; entry += blockDim.x) {
        const int c = entry / SET_ROWS, r = entry % SET_ROWS;
        tile[r][c] = start + r < rows ? values[channel[c] * rows + start + r] : 0.0f;
      }
      __syncthreads();
      float sum = 0;
      for (int r = 0; r < SET_ROWS; ++r) {
        float score[M];
#pragma unroll
        for (int i = 0; i < M; ++i) score[i] = tile[r][member[i]];
        sum += kept(score);
      }
      total += sum;
    }
    if (subset < count) worth[k * count + subset] = total;
  }
}

// gains[k] and dealt[k] of the best partition of set k, the first of equal ones. parts is [members][ways]: the subsets
// that each partition combines; value[g] is what group g retains now.
// Launch:  one block of 128 threads per set.
// Memory:  reads 4 members bytes per partition, coalesced, and as many sums from the set's few kB of worth. Limit: L1.
extern "C" __global__ void __launch_bounds__(128)
    best_partitions(const int* __restrict__ sets, int members, const int* __restrict__ subsets, int count,
                    const int* __restrict__ parts, int ways, const int* __restrict__ channels,
                    const double* __restrict__ worth, const double* __restrict__ value, double* __restrict__ gains,
                    int* __restrict__ dealt) {
  const int size = members * M, t = threadIdx.x;
  const long long k = blockIdx.x;
  double most = -1;
  int found = 0;
  for (int p = t; p < ways; p += blockDim.x) {
    double total = worth[k * count + parts[p]];
    for (int g = 1; g < members; ++g) total += worth[k * count + parts[(long long)g * ways + p]];
    if (total > most) {
      most = total;
      found = p;
    }
  }
  block_best<128>(most, found);
  if (t < size) dealt[k * size + t] = channels[k * size + subsets[parts[t / M * ways + found] * M + t % M]];
  if (t == 0) {
    double now = 0;
    for (int g = 0; g < members; ++g) now += value[sets[k * members + g]];
    gains[k] = most - now;
  }
}
