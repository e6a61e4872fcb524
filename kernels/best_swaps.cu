// Swaps of two channels of different groups: the best one of every group, and rows of the table they are read from.
// After common.cu.
//
// table[s][c] is what the group of slot s retains with channel c in its place; column[s] is the channel that sits
// there; value[g] is what group g retains now.

// gain[g] and pair[g] = the best swap of a slot of group g with a slot of another free group, as smaller slot * slots +
// larger slot; the smaller pair of equal ones, and no gain where g is not free itself.
// Launch:  one block of 128 threads per group.
// Memory:  reads 8 bytes per swap, half of them across rows (32 bytes of L2 each): the limit, some 150 MB at 2,048
// slots.
extern "C" __global__ void __launch_bounds__(128)
    best_swaps(const float* __restrict__ table, const int* __restrict__ column, const double* __restrict__ value,
               const unsigned char* __restrict__ is_free, int slots, float* __restrict__ gain,
               long long* __restrict__ pair) {
  const int g = blockIdx.x, t = threadIdx.x;
  float most = -3e38f;
  long long found = -1;
  for (int i = 0; i < M && is_free[g]; ++i) {
    const int s = g * M + i;
    for (int j = t; j < slots; j += blockDim.x) {
      const int h = j / M;
      if (h == g || !is_free[h]) continue;
      const float here = table[(long long)s * slots + column[j]] - float(value[g]);
      const float there = table[(long long)j * slots + column[s]] - float(value[h]);
      const long long name = s < j ? (long long)s * slots + j : (long long)j * slots + s;
      if (here + there > most || (here + there == most && name < found)) {
        most = here + there;
        found = name;
      }
    }
  }
  block_best<128>(most, found);
  if (t == 0) {
    gain[g] = most;
    pair[g] = found;
  }
}

// table[place[i]] = part[i]. Launch: any grid of 256 threads. Memory: reads and writes 4 bytes per entry: the limit.
extern "C" __global__ void __launch_bounds__(256)
    put_rows(const float* __restrict__ part, const int* __restrict__ place, int count, int width,
             float* __restrict__ table) {
  const long long size = (long long)count * width, stride = (long long)gridDim.x * blockDim.x;
  for (long long entry = (long long)blockIdx.x * blockDim.x + threadIdx.x; entry < size; entry += stride)
    table[(long long)place[entry / width] * width + entry % width] = part[entry];
}
