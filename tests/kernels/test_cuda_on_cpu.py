"""The stand-in for a GPU is strict enough: what would go wrong there goes wrong here, in one of its two orders."""

import re

import numpy as np
import pytest

from . import device_on_cpu
from .device_on_cpu import CpuDevice, build, run

pytestmark = pytest.mark.skipif(not device_on_cpu.available, reason="needs g++")

PROBES = """
__device__ void gather(const int* in, int* out, int from, bool barrier) {
  __shared__ int held[64];
  held[threadIdx.x] = in[threadIdx.x];
  if (barrier) __syncthreads();
  out[threadIdx.x] = held[from];
}
__global__ void earlier(const int* in, int* out, int barrier) { gather(in, out, threadIdx.x / 2, barrier); }
__global__ void later(const int* in, int* out, int barrier) { gather(in, out, 32 + threadIdx.x / 2, barrier); }
__global__ void mirrored(const int* in, int* out, int barrier) { gather(in, out, 63 - threadIdx.x, barrier); }

__global__ void parted() { if (threadIdx.x < 40) __syncthreads(); else __syncwarp(); }
__global__ void half_a_warp(int* out) { if (threadIdx.x % 32 < 16) *out = __shfl_xor_sync(~0u, 1, 1); }
__global__ void one_short() { if (threadIdx.x != 3) __syncwarp(); }
__global__ void endless() { for (;;) __syncthreads(); }

__global__ void early(int* out) {
  if (threadIdx.x > 9) return;
  __syncthreads();
  atomicAdd(out, 1);
}
__global__ void lanes(int* out) {
  const int lane = threadIdx.x;
  int sum = lane;
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
  const unsigned odd = __ballot_sync(~0u, lane % 2);
  if (lane < 16) {
    const int next = __shfl_down_sync(0xffffu, lane, 1);
    if (lane < 15) sum += next;
  }
  atomicAdd(out + 32, __shfl_sync(~0u, lane, 5));
  out[lane] = sum + int(odd == 0xaaaaaaaau) * 1000;
}
__global__ void beyond(int* out) { out[4] = 1; }
"""


@pytest.fixture(scope="module")
def probes():
    return build(PROBES, re.findall(r"__global__ void (\w+)", PROBES), 2, 4)


@pytest.mark.parametrize(("kernel", "wrong_in"), [("earlier", [True]), ("later", [False]), ("mirrored", [False, True])])
def test_a_missing_barrier_shows_in_one_of_the_orders(probes, kernel, wrong_in):
    values, thread = np.arange(1, 65, dtype=np.int32), np.arange(64)
    expected = values[{"earlier": thread // 2, "later": 32 + thread // 2, "mirrored": 63 - thread}[kernel]]

    def is_right(barrier, reverse):
        out = np.zeros(64, np.int32)
        run(probes, kernel, (1,), 64, [values, out, np.int32(barrier)], reverse)
        return bool((out == expected).all())

    assert is_right(True, False)
    assert is_right(True, True)
    assert [reverse for reverse in (False, True) if not is_right(False, reverse)] == wrong_in


@pytest.mark.parametrize("kernel", ["parted", "half_a_warp", "one_short"])
@pytest.mark.parametrize("reverse", [False, True])
def test_threads_that_wait_for_nobody_are_an_error(probes, kernel, reverse):
    with pytest.raises(RuntimeError, match="wait for others"):
        run(probes, kernel, (1,), 64, [np.zeros(1, np.int32)][: kernel == "half_a_warp"], reverse)


def test_a_loop_without_end_runs_out_of_time(probes):
    with pytest.raises(RuntimeError, match="out of time"):
        run(probes, "endless", (1,), 64, [], seconds=0.1)


@pytest.mark.parametrize("reverse", [False, True])
def test_exchanges_between_lanes(probes, reverse):
    out = np.zeros(33, np.int32)
    run(probes, "lanes", (1,), 32, [out], reverse)
    lane = np.arange(32)
    assert out[:32].tolist() == (496 + 1000 + np.where(lane < 15, lane + 1, 0)).tolist()
    assert out[32] == 32 * 5


@pytest.mark.parametrize("reverse", [False, True])
def test_threads_that_return_early_are_not_waited_for(probes, reverse):
    out = np.zeros(1, np.int32)
    run(probes, "early", (3, 2), 32, [out], reverse)
    assert out[0] == 6 * 10


def test_writes_beside_an_array_are_noticed(probes, monkeypatch):
    monkeypatch.setattr(device_on_cpu, "_library", lambda *_: probes)
    device = CpuDevice()
    with pytest.raises(AssertionError, match="wrote behind"):
        device.run([device.kernel("any", "beyond", 2, 4, (1, 1, 1), 32, [device.empty((4,), np.int32)])])
