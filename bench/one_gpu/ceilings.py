"""What the device can do at most: copy memory, and multiply matrices in bfloat16."""

from __future__ import annotations

import torch

from grlo.peak import measure_peak
from one_gpu.record import Record
from one_gpu.setup import Setup


def run(setup: Setup, record: Record) -> None:
    """Bytes per second of a copy (read and written), and FLOP per second of products."""
    with record.attempt("copy bandwidth"):
        size = 2**22 if setup.tiny else 2**31
        source = torch.empty(size, dtype=torch.uint8, device=setup.device)
        target = torch.empty_like(source)
        best = min(record.seconds(lambda: target.copy_(source))[0] for _ in range(10))
        record.add("copy bandwidth", bytes_per_second=2 * size / best)
    with record.attempt("bf16 product"):
        peak = measure_peak(setup.device, torch.bfloat16)
        record.add("bf16 product", flop_per_second=peak)
    rows = 64 if setup.tiny else 8192
    for which in ("policy", "reward"):
        with record.attempt(f"bf16 product in the shape of the {which}"):
            inputs, outputs = setup.shape(which).linear_shapes["up_proj"]
            left = torch.randn(rows, inputs, device=setup.device, dtype=torch.bfloat16)
            right = torch.randn(inputs, outputs, device=setup.device, dtype=torch.bfloat16)
            best = min(record.seconds(lambda: left @ right)[0] for _ in range(10))  # noqa: B023
            record.add(
                f"bf16 product in the shape of the {which}",
                flop_per_second=2 * rows * inputs * outputs / best,
                rows=rows,
                inputs=inputs,
                outputs=outputs,
            )
