// What groups of M channels retain, and what is left of them without one channel. After common.cu.
//
// Scores are float32 [channels][rows]: a block's threads read neighbouring rows of M channels.
// Limit: memory bandwidth (L2's where channels are in many groups).

// out[g] = what group g retains; groups is [gridDim.x][M].
// Launch:  one block of 128 threads per group.
// Memory:  reads 4 M bytes per row.          Work: 9 max, min and add per row at 2:4, 2 N M elsewhere.
extern "C" __global__ void __launch_bounds__(128)
    group_values(const float* __restrict__ values, long long rows, const int* __restrict__ groups,
                 double* __restrict__ out) {
  const float* column[M];
#pragma unroll
  for (int i = 0; i < M; ++i) column[i] = values + groups[(long long)blockIdx.x * M + i] * rows;
  float sum = 0;
  for (long long r = threadIdx.x; r < rows; r += blockDim.x) {
    float score[M];
#pragma unroll
    for (int i = 0; i < M; ++i) score[i] = column[i][r];
    sum += kept(score);
  }
  const double total = block_sum(double(sum));
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// out[c] = the sum of channel c. One block of 128 threads per channel; reads 4 bytes per score, once.
extern "C" __global__ void __launch_bounds__(128)
    channel_sums(const float* __restrict__ values, long long rows, double* __restrict__ out) {
  double sum = 0;
  for (long long r = threadIdx.x; r < rows; r += blockDim.x) sum += values[blockIdx.x * rows + r];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Take member skipped[k] out of group k. Per row let t_1 >= t_2 >= ... be what stays: bounds[k][r] = t_N, and
// base[k] = sum_r (t_1 + ... + t_{N-1}), so with any channel x in its place the group retains
// base[k] + sum_r max(bounds[k][r], x[r]).
// Launch:  a block of 128 threads an entry of skipped.
// Memory:  reads 4 (M - 1) bytes per row and writes 4.          Work: 2 N (M - 1) max and min per row.
extern "C" __global__ void __launch_bounds__(128)
    boundaries(const float* __restrict__ values, long long rows, const int* __restrict__ groups,
               const int* __restrict__ skipped, float* __restrict__ bounds, double* __restrict__ base) {
  const long long k = blockIdx.x;
  const float* column[M];
#pragma unroll
  for (int i = 0; i < M; ++i) column[i] = i == skipped[k] ? nullptr : values + groups[k * M + i] * rows;
  float sum = 0;
  for (long long r = threadIdx.x; r < rows; r += blockDim.x) {
    Largest<N, float> top;
#pragma unroll
    for (int i = 0; i < M; ++i) top.put(column[i] ? column[i][r] : 0.0f);
    bounds[k * rows + r] = top.at[N - 1];
#pragma unroll
    for (int i = 0; i + 1 < N; ++i) sum += top.at[i];
  }
  const double total = block_sum(double(sum));
  if (threadIdx.x == 0) base[k] = total;
}
