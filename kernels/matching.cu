// The best linear sum assignment of a chain, by one block. After common.cu.
//
// The same rows in the same order and the same ties, so the same matching, as sparselab/ops/cpu/matching.py: duals from
// the least of every column, then of every row; rows matched along the diagonal wherever those allow it; bids of the
// others, all at once, for some rounds; and for each of the few rows left over a shortest alternating path. A path is
// dozens of steps, each of which needs the one before: take the nearest column, read the costs of the row that is
// matched to it, bring all columns up to date. So one warp walks alone where it can, with up to 256 columns, 4 or 8 of
// them in each thread's registers. A bid is as much work as a step, but bids are made side by side, a warp each.
//
// Memory:  reads the costs twice, and one row of them a bid or step; 46 KiB of shared memory.
// Limit:   latency. A step is a row from L1 or L2 (some 40 or 250 cycles), two reductions of a warp, and 8 instructions
//          per column of a thread: some 170 cycles at 128 columns, 600 at 512, where two warps wait for each other.

constexpr int FAR = (1 << 30) - 1;  // twice that is still an int
constexpr int STARTERS = 512;       // threads that look for the first duals
constexpr int MOST_GROUPS = 4096;   // that are matched
constexpr int BIDDERS = STARTERS;   // rows that bid, at most: a thread each
constexpr int ROWS_A_ROUND = 16;    // one round of bids for so many rows of the matrix
constexpr int COLUMNS = 8;          // of a thread, at most: a multiple of 4, read at once

// Minimises the sum of stay[i] - worth[i][column_of[i]], which are below 2^28 in absolute value. Lines of worth are
// `width` apart: a multiple of what the walking warps read, 16 bytes per thread.
struct Matching {
  const int* worth;
  int size, width;
  const int* stay;
  int* column_dual;

  __device__ const int* line(int row) const { return worth + (long long)row * width; }
};

struct Matched {                                       // in shared memory
  int row_dual[MOST_GROUPS];                           // less stay: so it is compared with -worth
  short row_of[MOST_GROUPS];                           // -1: free
  short column_of[MOST_GROUPS];                        // -1: none yet
  short came_from[MOST_GROUPS];                        // the row before, on the shortest path to a column
  int bidder[BIDDERS], want[BIDDERS], offer[BIDDERS];  // a row or -1, its column, and what it gives for that
  int bidders;
  int parts[2][STARTERS / 32];
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
__device__ void start(const Matching& it, Matched& now) {
  const int t = threadIdx.x, warp = t / 32, lane = t % 32, size = it.size;
  for (int j = t; j < size; j += STARTERS) it.column_dual[j] = FAR, now.row_of[j] = -1;
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
      now.row_dual[i] = least;
      now.column_of[i] = tight ? i : -1;
      if (tight) now.row_of[i] = i;
    }
  }
  __syncthreads();
}

// The rows that row_at(0), row_at(1), ... names, -1 being none, become the bidders. By one warp.
template <class Row>
__device__ void list_bidders(Matched& now, int many, Row row_at) {
  const int lane = threadIdx.x % 32;
  int count = 0;
  for (int first = 0; first < many; first += 32) {
    const int row = first + lane < many ? row_at(first + lane) : -1;
    const unsigned there = __ballot_sync(~0u, row >= 0);
    const int place = count + __popc(there & ((1u << lane) - 1));
    if (row >= 0 && place < BIDDERS) now.bidder[place] = row;
    count += __popc(there);
  }
  if (lane == 0) now.bidders = min(count, BIDDERS);
}

// Rows without a column bid for the one that costs them least what the next one would cost more. The highest bid of a
// column wins it, of equal ones the lowest row's, and is taken off the column's dual; who had it bids from then on. By
// STARTERS threads.
__device__ void bid(const Matching& it, Matched& now) {
  const int t = threadIdx.x, warp = t / 32, lane = t % 32, size = it.size;
  if (warp == 0) list_bidders(now, size, [&](int row) { return now.column_of[row] < 0 ? row : -1; });
  __syncthreads();
  for (int round = 0; round < size / ROWS_A_ROUND; ++round) {
    for (int k = warp; k < now.bidders; k += STARTERS / 32) {
      const int row = now.bidder[k];
      const int* line = it.line(row);
      int least = FAR, next = FAR, column = FAR;
#pragma unroll 4
      for (int j = lane; j < size; j += 32) {
        const int cost = -line[j] - it.column_dual[j];
        next = min(next, max(cost, least));
        column = cost < least ? j : column;
        least = min(least, cost);
      }
      const int least_of_all = least_of_warp(least);
      const int wanted = least_of_warp(least == least_of_all ? column : FAR);
      const int next_of_all = least_of_warp(column == wanted ? next : least);
      if (lane == 0) {
        now.row_dual[row] = least_of_all;
        now.want[k] = wanted;
        now.offer[k] = next_of_all - least_of_all;
      }
    }
    __syncthreads();
    const int row = t < now.bidders ? now.bidder[t] : -1;
    const int column = row < 0 ? 0 : now.want[t], offer = row < 0 ? 0 : now.offer[t];
    bool wins = row >= 0 && (offer > 0 || now.row_of[column] < 0);
    for (int k = 0; wins && k < now.bidders; ++k)
      wins = now.want[k] != column || now.offer[k] < offer || (now.offer[k] == offer && now.bidder[k] >= row);
    const bool settled = !__syncthreads_or(wins);
    if (wins) {
      const int before = now.row_of[column];
      if (before >= 0) now.column_of[before] = -1;
      now.row_of[column] = row;
      now.column_of[row] = column;
      now.row_dual[row] += offer;
      it.column_dual[column] -= offer;
      now.bidder[t] = before;
    }
    __syncthreads();
    if (settled) break;
    if (warp == 0) list_bidders(now, now.bidders, [&](int k) { return now.bidder[k]; });
    __syncthreads();
  }
}

// Who walks: one warp, or several, after the other threads of the block have returned.
struct OneWarp {
  __device__ int number() const { return 0; }
  __device__ int least(int value) const { return least_of_warp(value); }
  __device__ void wait() const { __syncwarp(); }
};

struct Warps {
  int count;
  int (&parts)[2][STARTERS / 32];
  int turn = 0;

  __device__ int number() const { return threadIdx.x / 32; }

  // Calls take turns with two sets of parts, so one barrier is enough: who writes to a set again has passed the barrier
  // of the call between.
  __device__ int least(int value) {
    value = least_of_warp(value);
    int (&part)[STARTERS / 32] = parts[turn];
    turn ^= 1;
    const int lane = threadIdx.x % 32;
    if (lane == 0) part[number()] = value;
    __syncthreads();
    return least_of_warp(lane < count ? part[lane] : FAR);
  }

  __device__ void wait() const { __syncthreads(); }
};

// Calls visit(row) for the rows without a column, rising. None that is still to come may get one meanwhile.
template <class Visit>
__device__ void rows_left(const Matched& now, int size, Visit visit) {
  for (int first = 0; first < size; first += 32) {
    const int row = first + threadIdx.x % 32;
    unsigned left = __ballot_sync(~0u, row < size && now.column_of[row] < 0);
    for (; left; left &= left - 1) visit(first + __ffs(left) - 1);
  }
}

// The columns of a thread: four neighbours every 128.
template <int K>
struct Columns {
  int first;

  __device__ int operator[](int k) const { return first + k / 4 * 128 + k % 4; }

  __device__ void read(const int* line, int (&worth)[K]) const {
#pragma unroll
    for (int k = 0; k < K; k += 4) {
      const int4 four = *reinterpret_cast<const int4*>(line + (*this)[k]);
      worth[k] = four.x, worth[k + 1] = four.y, worth[k + 2] = four.z, worth[k + 3] = four.w;
    }
  }

  // The first column of all threads that is `wanted`.
  template <class Team>
  __device__ int pick(const bool (&wanted)[K], Team& team) const {
    int column = FAR;
#pragma unroll
    for (int k = K - 1; k >= 0; --k) column = wanted[k] ? (*this)[k] : column;
    return team.least(column);
  }
};

// Matches the rows that are left, with K columns per thread.
template <int K, class Team>
__device__ void finish(const Matching& it, Matched& now, Team team) {
  const Columns<K> mine = {team.number() * 32 * K + int(threadIdx.x % 32) * 4};
  int dual[K], worth[K];
  bool wanted[K];
#pragma unroll
  for (int k = 0; k < K; ++k) dual[k] = mine[k] < it.size ? it.column_dual[mine[k]] : 0;

  rows_left(now, it.size, [&](int first) {  // the shortest path to a free column
    int key[K], came[K], shut[K];           // FAR where shut: it is reached, or not a column
#pragma unroll
    for (int k = 0; k < K; ++k) key[k] = FAR, came[k] = first, shut[k] = mine[k] < it.size ? 0 : FAR;
    int row = first, near = 0, column;
    for (;;) {
      mine.read(it.line(row), worth);
      const int offset = near - now.row_dual[row];
      int least = FAR;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int length = offset - worth[k] - dual[k] + shut[k];  // none is shorter to where it is shut
        came[k] = length < key[k] ? row : came[k];
        key[k] = min(length, key[k]);
        least = min(least, key[k] + shut[k]);
      }
      near = team.least(least);
#pragma unroll
      for (int k = 0; k < K; ++k) wanted[k] = key[k] + shut[k] == near;
      column = mine.pick(wanted, team);
      row = now.row_of[column];
      if (row < 0) break;
#pragma unroll
      for (int k = 0; k < K; ++k) shut[k] = mine[k] == column ? FAR : shut[k];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (mine[k] >= it.size) continue;
      now.came_from[mine[k]] = came[k];
      if (shut[k]) {
        now.row_dual[now.row_of[mine[k]]] += near - key[k];
        dual[k] -= near - key[k];
      }
    }
    team.wait();
    if (threadIdx.x == 0) {
      now.row_dual[first] += near;
      for (int before = -1; before != first;) {
        before = now.came_from[column];
        now.row_of[column] = before;
        const int next = now.column_of[before];
        now.column_of[before] = column;
        column = next;
      }
    }
    team.wait();
  });
}
