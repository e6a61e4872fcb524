// gains[i][j] = what swapping the channel of slot slots[i] with that of slot j adds; 0 within a group. After common.cu.
//
// there[i][j] is what the group of slots[i] retains with the channel of slot j in its place, back[j][i] what the group
// of slot j retains with the channel of slots[i]; value[g] is what group g retains now. Launch:  any grid of 256
// threads, an entry each. Memory:  reads 8 bytes an entry, half of them across rows, and writes 4: the limit, small
// beside the two products.
extern "C" __global__ void __launch_bounds__(256)
    swap_gains(const float* __restrict__ there, const float* __restrict__ back, const double* __restrict__ value,
               const int* __restrict__ slots, int count, int channels, float* __restrict__ gains) {
  const long long size = (long long)count * channels, stride = (long long)gridDim.x * blockDim.x;
  for (long long entry = (long long)blockIdx.x * blockDim.x + threadIdx.x; entry < size; entry += stride) {
    const int i = int(entry / channels), j = int(entry % channels);
    const int here = slots[i] / M, other = j / M;
    const float gain = (there[entry] - float(value[here])) + (back[(long long)j * count + i] - float(value[other]));
    gains[entry] = here == other ? 0.0f : gain;
  }
}
