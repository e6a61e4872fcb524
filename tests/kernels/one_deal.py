"""One deal by the kernel. As a script, by a spoilt one: a process of its own, as it may never end."""

import ctypes
import json
import sys

import numpy as np

from sparselab.ops.cuda.kernels import Launcher
from sparselab.ops.cuda.matrix import _padded


def dealt(sums, device):
    """Which open channel each group gets, where these are their differences and staying is free."""
    groups = len(sums)
    width = _padded(groups)
    padded = np.random.default_rng(1).integers(-20_000, 20_000, (1, groups, width))  # no deal may look at the padding
    padded[0, :, :groups] = sums
    numbers = np.arange(groups)[None]
    uploads = [(padded, np.int32), ([1], np.uint64), ([9.0, 0.0], np.float64), ([1], np.int64)]
    there, seeds, noise, made = (device.upload(np.array(values, dtype)) for values, dtype in uploads)
    slots, index = (device.upload(numbers.astype(np.int32)) for _ in range(2))
    scratch, orders = device.empty((1, 2, groups), np.int32), device.empty((1, groups), np.int32)
    deal = Launcher(device, 1, 1)
    deal("deal_back", (1,), 512, there, groups, width, seeds, noise, made, slots, index, scratch, orders)
    assert made[0] == 2
    return orders[0]


def differences(groups, most):
    """Sums, and what a deal costs then. As in a search, staying is often best, and is closest by far for some."""
    sums = np.random.default_rng(groups).integers(0, most, (groups, groups)).astype(np.int32)
    sums[np.diag_indices(groups)] += np.random.default_rng(0).integers(0, most // 2 + 1, groups).astype(np.int32)
    return sums, np.diag(sums)[:, None] - sums


def main(library, groups, order):
    """Print the deal by the compiled ``library``."""
    import device_on_cpu  # beside this script

    spoilt = ctypes.CDLL(library)
    device_on_cpu._library = lambda *_: spoilt
    sums, _ = differences(int(groups), 50)
    print(json.dumps(dealt(sums, device_on_cpu.CpuDevice(order == "reverse")).tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
