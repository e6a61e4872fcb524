// Enough of CUDA to run a kernel on a CPU: a fiber per thread (ucontext), blocks one after the other.
//
// A fiber runs until it waits for others: at a barrier of its block or warp. So a missing barrier shows: threads run from the
// first to the last, or, with `reverse`, from the last to the first, and whoever reads what a later one writes reads too
// early in one of the two. A barrier that some threads never reach, or a shuffle whose mask names a lane that does not
// come, is an error and no hang, and so is a launch that runs out of time.
//
// Shared memory is poisoned before every block, and barriers count the threads of a block that have not returned, as GPUs
// since Volta do.
#pragma once
#include <link.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// One copy of shared memory serves, as blocks run one after the other. That it alone is thread_local is how poison() finds it.
#define __shared__ static thread_local

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};
static Dim3 gridDim, blockDim, blockIdx, threadIdx;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace cpu {

constexpr int WARP = 32, OK = 1, STUCK = 2, TIMEOUT = 3, BAD_LAUNCH = 4, POISON = 0x7f;
constexpr std::size_t STACK = 128 * 1024;

struct Fiber {
  ucontext_t context;
  jmp_buf resume;
  std::vector<char> stack = std::vector<char>(STACK);
  bool started = false, done = false;
  unsigned number = 0;
};

struct Exchange {  // what the lanes of one mask leave for each other
  unsigned rounds[WARP] = {};
  std::uint64_t value[2][WARP] = {};  // this round's and the next one's: no lane can be two rounds ahead
};

struct Block {
  std::map<std::pair<unsigned, unsigned>, Exchange> exchanges;  // by warp and mask
  unsigned alive = 0, waiting = 0, generation = 0;
  bool votes[2] = {};  // of this generation's barrier, and of the last one's, which some may still read
  std::uint64_t progress = 0;
  jmp_buf scheduler;
  Fiber* running = nullptr;
  void (*run)(void*) = nullptr;
  void* arguments = nullptr;
};
static Block* block;
static std::mutex one_launch;

inline void next_generation() {
  block->waiting = 0;
  block->votes[++block->generation & 1] = false;
}

inline void give_way() {
  if (!_setjmp(block->running->resume)) _longjmp(block->scheduler, 1);
}

inline void entry() {
  block->run(block->arguments);
  block->running->done = true;
  ++block->progress;
  _longjmp(block->scheduler, 1);
}

inline void set_thread(unsigned number) {
  threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
}

inline void resume(Fiber& fiber) {
  block->running = &fiber;
  set_thread(fiber.number);
  if (_setjmp(block->scheduler)) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  ++block->progress;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
  setcontext(&fiber.context);
}

// Fills this library's thread-local storage, which is its shared memory, with what no result looks like.
inline void poison() {
  static thread_local char any = 0;
  any = 1;  // it is allocated when first touched
  dl_iterate_phdr(
      [](dl_phdr_info* library, std::size_t, void*) {
        const auto here = reinterpret_cast<std::uintptr_t>(&one_launch);
        std::size_t shared = 0;
        bool own = false;
        for (int k = 0; k < library->dlpi_phnum; ++k) {
          const auto& part = library->dlpi_phdr[k];
          const auto start = library->dlpi_addr + part.p_vaddr;
          if (part.p_type == PT_TLS) shared = part.p_memsz;
          own |= part.p_type == PT_LOAD && start <= here && here < start + part.p_memsz;
        }
        if (own) std::memset(library->dlpi_tls_data, POISON, shared);
        return int(own);
      },
      nullptr);
}

// Threads in order, each until it waits, again and again until all are done.
inline int run_block(std::vector<Fiber>& fibers, bool reverse, std::chrono::steady_clock::time_point deadline) {
  const unsigned threads = fibers.size();
  block->exchanges.clear();
  block->alive = threads;
  block->waiting = 0;
  for (unsigned t = 0; t < threads; ++t) {
    fibers[t].started = fibers[t].done = false;
    fibers[t].number = t;
  }
  while (block->alive) {
    const auto before = block->progress;
    for (unsigned k = 0; k < threads; ++k) {
      Fiber& fiber = fibers[reverse ? threads - 1 - k : k];
      if (fiber.done) continue;
      resume(fiber);
      if (fiber.done) --block->alive;
    }
    if (block->progress == before) {
      if (block->waiting && block->waiting == block->alive) {  // the last that others waited for returned instead
        next_generation();
        continue;
      }
      return STUCK;
    }
    if (std::chrono::steady_clock::now() > deadline) return TIMEOUT;
  }
  return OK;
}

template <class... Parameters, std::size_t... I>
int launch(void (*kernel)(Parameters...), const unsigned* grid, const unsigned* threads, bool reverse, double seconds,
           void** arguments, std::index_sequence<I...>) {
  struct Call {
    void (*kernel)(Parameters...);
    void** arguments;
  } call{kernel, arguments};
  const unsigned count = threads[0] * threads[1] * threads[2];
  if (!count || count > 1024 || !grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535) return BAD_LAUNCH;
  const std::lock_guard<std::mutex> alone(one_launch);
  static std::vector<Fiber> fibers;  // stacks are kept from launch to launch
  fibers.resize(count);
  Block state;
  block = &state;
  state.arguments = &call;
  state.run = [](void* opaque) {
    const Call& it = *static_cast<Call*>(opaque);
    it.kernel(*static_cast<std::remove_cv_t<Parameters>*>(it.arguments[I])...);
  };
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads[0], threads[1], threads[2]};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                               std::chrono::duration<double>(seconds));
  const std::uint64_t blocks = std::uint64_t(grid[0]) * grid[1] * grid[2];
  for (std::uint64_t k = 0; k < blocks; ++k) {
    const std::uint64_t b = reverse ? blocks - 1 - k : k;
    blockIdx = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
    poison();
    const int result = run_block(fibers, reverse, deadline);
    if (result != OK) return result;
  }
  return OK;
}

// All lanes of `mask` leave their value and come back when every one of them has.
template <class T>
void exchange(unsigned mask, T value, T (&seen)[WARP]) {
  static_assert(sizeof(T) <= 8);
  const unsigned thread = block->running->number, lane = thread % WARP;
  if (!(mask >> lane & 1)) std::abort();  // who calls must be in the mask
  Exchange& all = block->exchanges[{thread / WARP, mask}];
  const unsigned round = ++all.rounds[lane];
  std::memcpy(&all.value[round & 1][lane], &value, sizeof value);
  ++block->progress;
  for (unsigned other = 0; other < WARP; ++other)
    while ((mask >> other & 1) && all.rounds[other] < round) give_way();
  for (int other = 0; other < WARP; ++other) std::memcpy(&seen[other], &all.value[round & 1][other], sizeof(T));
}

}  // namespace cpu

inline void __syncthreads() {
  cpu::Block& block = *cpu::block;
  const unsigned generation = block.generation;
  ++block.progress;
  ++block.waiting;
  if (block.waiting == block.alive) {
    cpu::next_generation();
    return;
  }
  while (block.generation == generation) cpu::give_way();
}

inline int __syncthreads_or(int predicate) {
  bool& any = cpu::block->votes[cpu::block->generation & 1];
  any |= predicate != 0;
  __syncthreads();
  return any;
}

inline void __syncwarp(unsigned mask = ~0u) {
  int seen[cpu::WARP];
  cpu::exchange(mask, 0, seen);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  T seen[cpu::WARP];
  cpu::exchange(mask, value, seen);
  return seen[(threadIdx.x % cpu::WARP) ^ bits];
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  T seen[cpu::WARP];
  cpu::exchange(mask, value, seen);
  return seen[lane % cpu::WARP];
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, int by) {
  T seen[cpu::WARP];
  cpu::exchange(mask, value, seen);
  const int lane = threadIdx.x % cpu::WARP;
  return seen[lane + by < cpu::WARP ? lane + by : lane];
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  int seen[cpu::WARP];
  cpu::exchange(mask, int(predicate != 0), seen);
  unsigned bits = 0;
  for (int lane = 0; lane < cpu::WARP; ++lane) bits |= (mask >> lane & 1) && seen[lane] ? 1u << lane : 0;
  return bits;
}

inline int __reduce_min_sync(unsigned mask, int value) {
  int seen[cpu::WARP];
  cpu::exchange(mask, value, seen);
  for (int lane = 0; lane < cpu::WARP; ++lane)
    if (mask >> lane & 1) value = seen[lane] < value ? seen[lane] : value;
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
using std::max;
using std::min;

template <class T>
T atomicMin(T* at, T value) {
  const T old = *at;
  *at = min(old, value);
  return old;
}

template <class T>
T atomicAdd(T* at, T value) {
  static_assert(std::is_integral_v<T>, "sums of floats depend on their order");
  const T old = *at;
  *at += value;
  return old;
}

template <class Pick>
unsigned by_byte(unsigned a, unsigned b, Pick pick) {
  unsigned out = 0;
  for (int shift = 0; shift < 32; shift += 8) out |= unsigned(pick(a >> shift & 255, b >> shift & 255) & 255) << shift;
  return out;
}
inline unsigned __vmaxu4(unsigned a, unsigned b) {
  return by_byte(a, b, [](unsigned x, unsigned y) { return x > y ? x : y; });
}
inline unsigned __vminu4(unsigned a, unsigned b) {
  return by_byte(a, b, [](unsigned x, unsigned y) { return x < y ? x : y; });
}
inline unsigned __vcmpgeu4(unsigned a, unsigned b) {
  return by_byte(a, b, [](unsigned x, unsigned y) { return x >= y ? 255u : 0u; });
}
inline unsigned __vsadu4(unsigned a, unsigned b) {
  unsigned sum = 0;
  for (int shift = 0; shift < 32; shift += 8) {
    const int x = a >> shift & 255, y = b >> shift & 255;
    sum += x > y ? x - y : y - x;
  }
  return sum;
}

template <class... Parameters>
int launch(void (*kernel)(Parameters...), const unsigned* grid, const unsigned* threads, int reverse, double seconds,
           void** arguments) {
  return cpu::launch(kernel, grid, threads, reverse, seconds, arguments, std::index_sequence_for<Parameters...>());
}

// int run_NAME(grid, threads a block, reverse, seconds it may take, pointers to the arguments): 1 where all went well.
#define EXPORT(kernel)                                                                                        \
  extern "C" int run_##kernel(const unsigned* grid, const unsigned* threads, int reverse, double seconds,     \
                              void** arguments) {                                                             \
    return launch(kernel, grid, threads, reverse, seconds, arguments);                                        \
  }
