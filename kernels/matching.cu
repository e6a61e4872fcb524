// The best linear sum assignment of a chain, by one block. After common.cu.
//
// The same rows in the same order and the same ties, so the same matching, as sparselab/ops/cpu/matching.py: duals from
// the least of every column, then of every row; rows matched along the diagonal wherever those allow it, then to a free
// column; and for each of the few rows left over a shortest alternating path. A path is dozens of steps, each of which
// needs the one before: take the nearest column, read the costs of the row that is matched to it, bring all columns up
// to date. So one warp walks alone where it can, with up to 256 columns, 4 or 8 of them in each thread's registers.
//
// Memory:  reads the costs twice, and one row of them a step.
// Limit:   latency. A step is a row from L1 or L2 (some 40 or 250 cycles), two reductions of a warp, and 7 instructions
//          a column of a thread: some 150 cycles at 128 columns, 450 at 512, where two warps wait for each other.

constexpr int FAR = 1 << 30;
constexpr int STARTERS = 512;  // threads that look for the first duals
constexpr int COLUMNS = 8;     // of a thread, at most: 4,096 of a matching

// Minimises the sum of stay[i] - worth[i][column_of[i]], which are below 2^28 in absolute value.
struct Matching {
  const int* worth;
  int size;
  int* stay;
  int* row_dual;  // less stay: so it is compared with -worth
  int* column_dual;
  int* row_of;  // -1: free
  int* column_of;
  int* came_from;  // the row before, on the shortest path to a column

  __device__ const int* line(int row) const { return worth + (long long)row * size; }
};

__device__ inline int least_of_warp(int value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_min_sync(~0u, value);
#else
  for (int lanes = 16; lanes > 0; lanes /= 2) value = min(value, __shfl_xor_sync(~0u, value, lanes));
  return value;
#endif
}

// First duals, and the diagonal. By STARTERS threads.
__device__ void start(Matching& it) {
  const int t = threadIdx.x, warp = t / 32, lane = t % 32, size = it.size;
  for (int j = t; j < size; j += STARTERS) it.column_dual[j] = FAR, it.row_of[j] = -1;
  __syncthreads();
  for (int j = t % 128; j < size; j += 128) {  // four threads share a column
    int least = FAR;
#pragma unroll 8
    for (int i = t / 128; i < size; i += STARTERS / 128) least = min(least, it.stay[i] - it.line(i)[j]);
    atomicMin(&it.column_dual[j], least);
  }
  __syncthreads();
  for (int i = warp; i < size; i += STARTERS / 32) {
    const int* line = it.line(i);
    int least = FAR;
#pragma unroll 4
    for (int j = lane; j < size; j += 32) least = min(least, -line[j] - it.column_dual[j]);
    least = least_of_warp(least);
    if (lane == 0) {
      const bool tight = -line[i] - it.column_dual[i] == least;
      it.row_dual[i] = least;
      it.column_of[i] = tight ? i : -1;
      if (tight) it.row_of[i] = i;
    }
  }
  __syncthreads();
}

// The threads that walk: the first `warps` warps of the block; the others have returned.
struct Walkers {
  int warps;
  int (&parts)[2][32];
  int turn = 0;

  // The least value of all, for every thread. Calls take turns with two sets of parts, so one barrier is enough: who
  // writes to a set again has passed the barrier of the call between.
  __device__ int least(int value) {
    value = least_of_warp(value);
    if (warps == 1) return value;
    int (&part)[32] = parts[turn];
    turn ^= 1;
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    for (int warp = 0; warp < warps; ++warp) value = min(value, part[warp]);
    return value;
  }

  __device__ void wait() const {
    if (warps == 1)
      __syncwarp();
    else
      __syncthreads();
  }
};

// Calls visit(row) for the rows without a column, rising. None that is still to come may get one meanwhile.
template <class Visit>
__device__ void rows_left(const Matching& it, Visit visit) {
  for (int first = 0; first < it.size; first += 32) {
    const int row = first + threadIdx.x % 32;
    unsigned left = __ballot_sync(~0u, row < it.size && it.column_of[row] < 0);
    for (; left; left &= left - 1) visit(first + __ffs(left) - 1);
  }
}

// Matches the rows that start() left, with K columns a thread: 32 * warps * K of them or more.
template <int K>
__device__ void finish(Matching& it, Walkers walkers) {
  const int t = threadIdx.x, apart = 32 * walkers.warps;
  int dual[K];
#pragma unroll
  for (int k = 0; k < K; ++k) dual[k] = t + k * apart < it.size ? it.column_dual[t + k * apart] : 0;

  rows_left(it, [&](int row) {  // another column that is tight and free
    const int* line = it.line(row);
    int column = FAR;
#pragma unroll
    for (int k = K - 1; k >= 0; --k) {
      const int j = t + k * apart;
      if (j < it.size && it.row_of[j] < 0 && -line[j] - dual[k] == it.row_dual[row]) column = j;
    }
    column = walkers.least(column);
    if (column < FAR && t == 0) {
      it.column_of[row] = column;
      it.row_of[column] = row;
    }
    walkers.wait();
  });

  rows_left(it, [&](int first) {  // the shortest path to a free column
    int key[K], came[K];
    unsigned shut = 0;  // a bit a column
#pragma unroll
    for (int k = 0; k < K; ++k) key[k] = FAR, came[k] = first;
    int row = first, near = 0, column;
    for (;;) {
      const int* line = it.line(row);
      const int offset = near - it.row_dual[row];
      int least = FAR;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int j = t + k * apart;
        const int length = j < it.size ? offset - line[j] - dual[k] : FAR;
        if (shut >> k & 1) continue;
        if (length < key[k]) key[k] = length, came[k] = row;
        least = min(least, key[k]);
      }
      near = walkers.least(least);
      column = FAR;
#pragma unroll
      for (int k = K - 1; k >= 0; --k)
        if (!(shut >> k & 1) && key[k] == near) column = t + k * apart;
      column = walkers.least(column);
      row = it.row_of[column];
      if (row < 0) break;
      if (column % apart == t) shut |= 1u << column / apart;
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int j = t + k * apart;
      if (j < it.size) it.came_from[j] = came[k];
      if (shut >> k & 1) {
        it.row_dual[it.row_of[j]] += near - key[k];
        dual[k] -= near - key[k];
      }
    }
    walkers.wait();
    if (t == 0) {
      it.row_dual[first] += near;
      for (int before = -1; before != first;) {
        before = it.came_from[column];
        it.row_of[column] = before;
        const int next = it.column_of[before];
        it.column_of[before] = column;
        column = next;
      }
    }
    walkers.wait();
  });
}
