// Two products of all rows of one matrix with all rows of another, which every search runs on. After common.cu.
//
//   sum_of_maxima       partial[z][i][j] = sum_r max(left[i][r], right[index[j]][r])      float32
//   sum_of_differences  sums[c][i][j]   += sum_r |left[c][i][r] - right[index[c][j]][r]|  bytes, four to a word
//
// Launch:  256 threads; block (x, y, z) takes the tile [LEFT y, ...) x [RIGHT x, ...) of slice z of the rows (of chain
//          z / slices in the second).
// Memory:  a tile reads LEFT + RIGHT words per row, for LEFT * RIGHT steps: 43 steps per word at 64 x 128.
// Work:    a thread has 4 x 8 sums in registers and loads 12 words from shared memory for 32 steps. A step is a max and
//          an add, or one VABSDIFF4.ACC for four bytes.
// Limit:   instruction issue. FP32 max runs at 64 a cycle and SM, so max + add at 64 steps a cycle and SM on sm_80 and
//          sm_90; bytes at 64 VABSDIFF4 a cycle and SM, 256 steps.

constexpr int LEFT = 64, RIGHT = 128, DEPTH = 16, THREADS = 256;
constexpr int ACROSS = RIGHT / 8;  // threads along j; each has two runs of four neighbours, RIGHT / 2 apart

struct Maxima {
  typedef float Word;
  typedef float Sum;
  __device__ static float add(float sum, float a, float b) { return sum + fmaxf(a, b); }
};

struct Differences {
  typedef unsigned Word;
  typedef int Sum;
  __device__ static int add(int sum, unsigned a, unsigned b) { return add_differences(sum, a, b); }
};

__device__ inline int row_of(int i) { return threadIdx.x / ACROSS * 4 + i; }
__device__ inline int column_of(int j) { return threadIdx.x % ACROSS * 4 + (j < 4 ? j : RIGHT / 2 + j - 4); }

// Adds words [start, stop) of this block's tile to sum. Words beyond the edges are zero, and add nothing: max(0, 0).
template <class Step>
__device__ void add_tile(const typename Step::Word* __restrict__ left, int lefts,
                         const typename Step::Word* __restrict__ right, const int* __restrict__ index, int rights,
                         long long width, long long start, long long stop, typename Step::Sum (&sum)[4][8]) {
  typedef typename Step::Word Word;
  __shared__ __align__(16) Word a[DEPTH][LEFT + 4];  // the padding spreads a column over the banks
  __shared__ __align__(16) Word b[DEPTH][RIGHT + 4];
  const int depth = threadIdx.x % DEPTH, lane = threadIdx.x / DEPTH;
  constexpr int APART = THREADS / DEPTH;
  const Word* from_left[LEFT / APART];
  const Word* from_right[RIGHT / APART];
#pragma unroll
  for (int k = 0; k < LEFT / APART; ++k) {
    const int i = blockIdx.y * LEFT + lane + k * APART;
    from_left[k] = i < lefts ? left + i * width : nullptr;
  }
#pragma unroll
  for (int k = 0; k < RIGHT / APART; ++k) {
    const int j = blockIdx.x * RIGHT + lane + k * APART;
    from_right[k] = j < rights ? right + index[j] * width : nullptr;
  }
  for (long long r = start; r < stop; r += DEPTH) {
    const bool inside = r + depth < stop;
    __syncthreads();  // the words of the step before have been used
#pragma unroll
    for (int k = 0; k < LEFT / APART; ++k)
      a[depth][lane + k * APART] = inside && from_left[k] ? from_left[k][r + depth] : Word(0);
#pragma unroll
    for (int k = 0; k < RIGHT / APART; ++k)
      b[depth][lane + k * APART] = inside && from_right[k] ? from_right[k][r + depth] : Word(0);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      Word x[4], y[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = a[d][row_of(i)];
#pragma unroll
      for (int j = 0; j < 8; ++j) y[j] = b[d][column_of(j)];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[i][j] = Step::add(sum[i][j], x[i], y[j]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_of_maxima(const float* __restrict__ left, int lefts, const float* __restrict__ right,
                  const int* __restrict__ index, int rights, long long rows, int slice, float* __restrict__ partial) {
  float sum[4][8] = {};
  const long long start = (long long)blockIdx.z * slice, stop = start + slice < rows ? start + slice : rows;
  add_tile<Maxima>(left, lefts, right, index, rights, rows, start, stop, sum);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int row = blockIdx.y * LEFT + row_of(i), column = blockIdx.x * RIGHT + column_of(j);
      if (row < lefts && column < rights) partial[((long long)blockIdx.z * lefts + row) * rights + column] = sum[i][j];
    }
}

// table[i][j] = base[i] + the slices of a sum_of_maxima, added in float64 one after the other.
// Launch:  any grid of 256 threads.          Memory: reads 4 bytes per slice and entry, writes 4 per entry: the limit.
extern "C" __global__ void __launch_bounds__(256)
    add_slices(const float* __restrict__ partial, int slices, const double* __restrict__ base, int lefts, int rights,
               float* __restrict__ table) {
  const long long size = (long long)lefts * rights, stride = (long long)gridDim.x * blockDim.x;
  for (long long entry = (long long)blockIdx.x * blockDim.x + threadIdx.x; entry < size; entry += stride) {
    double sum = 0;
    for (int z = 0; z < slices; ++z) sum += partial[z * size + entry];
    table[entry] = float(sum + base[entry / rights]);
  }
}

// sums, lines of `width`, is zero before; integers may be added in any order.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_of_differences(const unsigned* __restrict__ left, const unsigned* __restrict__ right,
                       const int* __restrict__ index, int size, long long words, int slice, int slices, int width,
                       int* __restrict__ sums) {
  const long long chain = blockIdx.z / slices, start = (long long)(blockIdx.z % slices) * slice;
  const long long stop = start + slice < words ? start + slice : words;
  int sum[4][8] = {};
  add_tile<Differences>(left + chain * size * words, size, right, index + chain * size, size, words, start, stop, sum);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int row = blockIdx.y * LEFT + row_of(i), column = blockIdx.x * RIGHT + column_of(j);
      if (row < size && column < size) atomicAdd(&sums[(chain * size + row) * width + column], sum[i][j]);
    }
}
