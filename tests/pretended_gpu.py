"""A GPU that the CPU plays, for programs that ask for `cuda`.

    python tests/pretended_gpu.py [-m MODULE | SCRIPT] [ARGUMENTS]

Tensors on it say that they are on `cuda:0`, and operators compute them here. So everything runs
that only a GPU would run, and fails where a GPU would: operators with tensors of both devices,
reads by the host while a graph is recorded, kernels that are called with what they do not take.
CUDA graphs record operators and replay them with what the host knew then. It says nothing of
speed, memory, or how a GPU rounds. Needs a C++ compiler and torch without CUDA.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def load_hooks() -> None:
    """Compiles and loads what torch's core asks of CUDA; before torch is imported."""
    assert "torch" not in sys.modules, "torch has looked for CUDA already"
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch_folder = Path(spec.origin).parent
    source = Path(__file__).with_suffix(".cpp")
    version = (torch_folder / "version.py").read_bytes()
    name = hashlib.sha256(source.read_bytes() + version).hexdigest()[:16]
    library = source.with_name("__pycache__") / f"pretended_gpu_{name}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        paths = [f"-I{torch_folder}/include", f"-L{torch_folder}/lib"]
        command = ["c++", "-std=c++20", "-fPIC", "-shared", str(source), "-o", str(partial)]
        command += [*paths, "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder}/lib"]
        subprocess.run(command, check=True)
        partial.rename(library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


load_hooks()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import flash_reference  # noqa: E402

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
_set_data = torch.Tensor.data.__set__
_new_generator = torch.Generator


class OnGPU(Tensor):
    """A tensor on the GPU; `inner` has its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGPU:
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )

    def __init__(self, inner: Tensor) -> None:
        assert type(inner) is Tensor, type(inner)
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    # With these, modules exchange parameters that change device instead of their data.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, meta: Any, size: Any, stride: Any) -> OnGPU:
        return OnGPU(inner["inner"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copy: Any = self.detach().clone()
            if isinstance(self, torch.nn.Parameter):
                copy = torch.nn.Parameter(copy)
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnGPU({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor on cuda:0 to numpy")

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def storage(self) -> Any:
        return self.inner.storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()


class Mode(TorchDispatchMode):
    """Sees the operators that make tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


CROSSING = {
    *(aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default),
    *(aten.copy_.default, aten._foreach_copy_.default, aten._local_scalar_dense.default),
    *(aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default),
    *(aten.index_put_.default, aten._index_put_impl_.default),
}
"""Operators that take tensors of both devices."""
OF_UNKNOWN_SIZE = {
    *(aten.nonzero.default, aten.masked_select.default, aten._unique2.default),
    aten.repeat_interleave.Tensor,
}
"""Operators that wait for the GPU, to know how large their results are."""


def leaves(values: Any) -> Iterator[Any]:
    """What is in lists, tuples and dictionaries; faster than torch's own."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from leaves(value)
    elif isinstance(values, dict):
        yield from leaves(list(values.values()))
    else:
        yield values


def mapped(values: Any, function: Callable[[Any], Any]) -> Any:
    """The same lists, tuples and dictionaries of results."""
    if isinstance(values, (list, tuple)):
        return type(values)([mapped(value, function) for value in values])
    if isinstance(values, dict):
        return {name: mapped(value, function) for name, value in values.items()}
    return function(values)


def inner(value: Any) -> Any:
    """What the CPU computes with."""
    if isinstance(value, OnGPU):
        return value.inner
    return CPU if isinstance(value, torch.device) and value.type == "cuda" else value


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator's results, on the device where a GPU would leave them."""
    if func is aten.record_stream.default:
        return None
    given = [*leaves(args), *leaves(kwargs)]
    on_gpu = [x for x in given if isinstance(x, OnGPU)]
    elsewhere = any(isinstance(x, Tensor) and not isinstance(x, OnGPU) and x.dim() for x in given)
    if on_gpu and elsewhere:
        require_crossing(func, args)
    if on_gpu and func in CPU_KERNELS:
        raise NotImplementedError(f"{func} is none of a GPU")
    named = [x for x in given if isinstance(x, torch.device)]
    if named:
        to_gpu = named[0].type == "cuda"
    elif func in CROSSING:
        to_gpu = isinstance(given[0], OnGPU)
    else:
        to_gpu = bool(on_gpu)
    inner_args, inner_kwargs = mapped(args, inner), mapped(kwargs, inner)
    if "pin_memory" in inner_kwargs:
        inner_kwargs["pin_memory"] = False
    graph = RECORDING[-1] if RECORDING else None
    if graph is not None and on_gpu:
        reads = not to_gpu or func is aten._local_scalar_dense.default or func in OF_UNKNOWN_SIZE
        if reads or elsewhere:
            raise RuntimeError(f"CUDA error: not permitted while a graph is recorded: {func}")
        graph.save_what_is_written(func, inner_args, inner_kwargs)
    call = GPU_KERNELS.get(func, func) if on_gpu else func
    results = call(*inner_args, **inner_kwargs)
    if graph is not None and to_gpu:
        graph.log.append((call, inner_args, inner_kwargs, results))
    wrapped = {id(x.inner): x for x in on_gpu}

    def outer(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        known = wrapped.get(id(x))
        if not to_gpu:
            return x if known is None else x.clone()
        if known is None:
            return OnGPU(x)
        if known.shape != x.shape or known.stride() != x.stride():
            raise NotImplementedError(f"{func} changes the shape of what is there")
        return known

    with torch.inference_mode(False):
        return mapped(results, outer)


def require_crossing(func: Any, args: tuple[Any, ...]) -> None:
    """Raises RuntimeError where an operator cannot take tensors of both devices."""
    first = isinstance(next(leaves(args)), OnGPU)
    indexes = func in CROSSING and "index" in func.name()
    strange = indexes and not first  # Indices on the GPU, of a tensor that is not.
    if indexes and "put" in func.name() and args[2].dim() > 0:
        strange |= isinstance(args[2], OnGPU) != first
    if func not in CROSSING or strange:
        raise RuntimeError(f"tensors on two devices, cuda:0 and cpu: {func}")


def stretches_of(
    starts_q: Tensor, starts_k: Tensor, count: Tensor | None = None
) -> Iterator[tuple[slice, slice]]:
    pairs = zip(pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True)
    for row, (queries, (start, stop)) in enumerate(pairs):
        end = stop if count is None else start + int(count[row])
        assert end <= stop
        if queries[0] < queries[1]:
            yield slice(*queries), slice(start, end)


def check_flash(states: tuple[Tensor, ...], starts: tuple[Tensor, ...], longest_q: int) -> None:
    for x in states:
        assert x.dim() == 3
        assert x.dtype == states[0].dtype
        assert x.dtype in (torch.bfloat16, torch.float16)
        assert x.stride(-1) == 1
        assert x.shape[-1] % 8 == 0
        assert x.shape[-1] <= 256
    for x in starts:
        assert x.dtype == torch.int32
        assert x.is_contiguous()
    assert int(starts[0].diff().max()) <= longest_q
    assert int(starts[0][-1]) <= len(states[0])
    assert int(starts[1][-1]) <= len(states[1])


def flash_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    longest_q: int,
    longest_k: int,
    dropout: float,
    is_causal: bool,
    debug: bool,
    *,
    scale: float,
    seqused_k: Tensor | None = None,
) -> tuple[Tensor, ...]:
    assert not dropout
    check_flash((query, key, value), (starts_q, starts_k), longest_q)
    if seqused_k is not None:
        assert seqused_k.dtype == torch.int32
        assert seqused_k.is_contiguous()
    assert int((starts_k.diff() if seqused_k is None else seqused_k).max()) <= longest_k
    stretches = stretches_of(starts_q, starts_k, seqused_k)
    output, normalizer_NH = flash_reference.forward(
        query, key, value, stretches, is_causal=is_causal, scale=scale
    )
    state = torch.zeros(2, dtype=torch.uint64)
    return output, normalizer_NH.T.contiguous(), state, state[:0].clone(), output[:0].clone()


def flash_backward(
    upstream: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normalizer_HN: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    longest_q: int,
    longest_k: int,
    dropout: float,
    is_causal: bool,
    random_state: Tensor,
    unused: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, ...]:
    assert not dropout
    check_flash((query, key, value), (starts_q, starts_k), longest_q)
    check_flash((upstream, output), (starts_q, starts_q), longest_q)
    assert int(starts_k.diff().max()) <= longest_k
    assert normalizer_HN.dtype == torch.float32
    assert normalizer_HN.is_contiguous()
    return flash_reference.backward(
        *(upstream, query, key, value, output, normalizer_HN.T),
        stretches_of(starts_q, starts_k),
        is_causal=is_causal,
        scale=scale,
    )


GPU_KERNELS: dict[Any, Callable[..., Any]] = {
    aten._flash_attention_forward.default: flash_forward,
    aten._flash_attention_backward.default: flash_backward,
    aten._pin_memory.default: torch.clone,
    aten.is_pinned.default: lambda *args: False,
}
CPU_KERNELS = {
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}


class Graph:
    """`torch.cuda.CUDAGraph`: operators with the very tensors that they were recorded with."""

    def __init__(self) -> None:
        self.log: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.saved: list[tuple[Tensor, Tensor]] = []

    def save_what_is_written(self, func: Any, args: Any, kwargs: Any) -> None:
        names = {x.name: value for x, value in zip(func._schema.arguments, args, strict=False)}
        for x in func._schema.arguments:
            if x.alias_info is not None and x.alias_info.is_write:
                for tensor in leaves((names | kwargs).get(x.name)):
                    self.saved.append((tensor, tensor.clone()))

    def replay(self) -> None:
        for call, args, kwargs, results in self.log:
            again = call(*args, **kwargs)
            for old, new in zip(leaves(results), leaves(again), strict=True):
                # Results that are views, or what was written to, are up to date.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


RECORDING: list[Graph] = []


@contextlib.contextmanager
def recording(graph: Graph, **options: Any) -> Iterator[None]:
    """`torch.cuda.graph`: what is recorded is not done."""
    RECORDING.append(graph)
    try:
        yield
    finally:
        RECORDING.pop()
        for tensor, before in reversed(graph.saved):
            tensor.copy_(before)
        graph.saved.clear()


class Stream:
    """A stream or an event; work is done when it is asked for."""

    device = GPU

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Generator(torch.Generator):
    """A generator of the GPU draws the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type == "cuda":
            return super().__new__(cls, "cpu")
        return _new_generator(device)


def set_data(self: Tensor, value: Tensor) -> None:
    """`tensor.data = value`: the object stays, wherever its values go."""
    if not isinstance(self, OnGPU) and not isinstance(value, OnGPU):
        _set_data(self, value)
        return
    new = value.detach()
    if isinstance(self, torch.nn.Parameter):
        new = torch.nn.Parameter(new, self.requires_grad)
    torch.utils.swap_tensors(self, new)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Composite, since the choice of a kernel asks the GPU's driver."""
    return aten._scaled_dot_product_attention_math(
        *(query, key, value, attn_mask, dropout_p, is_causal), scale=scale, enable_gqa=enable_gqa
    )[0]


def start() -> None:
    """Has this process a GPU, until it ends."""
    cuda: Any = torch.cuda
    memory = {"memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"}
    nothing = ("_lazy_init", "set_device", "synchronize", "empty_cache", "manual_seed")
    nothing += ("manual_seed_all", "reset_peak_memory_stats", "set_rng_state", "set_rng_state_all")
    for name in nothing:
        setattr(cuda, name, lambda *args, **kwargs: None)
    for name in memory:
        setattr(cuda, name, lambda *args: 2**30)
    cuda.is_available = cuda.is_initialized = lambda: True
    cuda.is_bf16_supported = lambda *args, **kwargs: True
    cuda.device_count, cuda.current_device = lambda: 1, lambda: 0
    cuda.mem_get_info = lambda *args: (100 * 2**30, 139 * 2**30)
    cuda.get_device_name = lambda *args: "pretended GPU"
    cuda.get_device_capability = lambda *args: (9, 0)
    cuda.get_device_properties = lambda *args: SimpleNamespace(uuid="none", major=9, minor=0)
    cuda.get_rng_state = lambda *args: torch.zeros(16, dtype=torch.uint8)
    cuda.get_rng_state_all = lambda: [cuda.get_rng_state()]
    cuda.Stream = cuda.Event = Stream
    cuda.current_stream = lambda *args: Stream()
    cuda.stream = cuda.device = lambda *args: contextlib.nullcontext()
    cuda.CUDAGraph, cuda.graph, cuda.graph_pool_handle = Graph, recording, lambda: (0, 0)
    torch._C._cuda_getCurrentRawStream = lambda device: 0  # pyright: ignore
    torch.Generator = Generator  # pyright: ignore
    torch.nn.functional.scaled_dot_product_attention = attention  # pyright: ignore
    for kind in (torch.nn.Parameter, OnGPU):
        kind.data = property(torch.Tensor.data.__get__, set_data)  # pyright: ignore
    run = threading.Thread.run

    def run_with_gpu(thread: threading.Thread) -> None:
        with _in_thread():
            run(thread)

    threading.Thread.run = run_with_gpu  # pyright: ignore
    _in_thread().__enter__()


def _in_thread() -> Mode:
    """To be entered by each thread."""
    # `torch.tensor` begins on the CPU then, as it does for tensors without memory.
    torch._C._set_only_lift_cpu_tensors(True)
    torch.autograd.set_multithreading_enabled(False)
    return Mode()


def main() -> None:
    start()
    torch.set_num_threads(1)
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        sys.path[0] = ""
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
