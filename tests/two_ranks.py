"""Processes that are the ranks of a run, forked from that of the test: torch is there already."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from grlo.training.distributed.fsdp import Sharding
from grlo.training.distributed.ranks import Ranks, connected
from grlo.training.distributed.sharing import Divided


def forked(job: Callable[[int], Any], *, size: int = 2, seconds: float = 120) -> list[Any]:
    """What the job gives in each of so many processes that torchrun might have started.

    Raises:
        AssertionError: It failed in one; the traceback is in the message.
    """
    context = multiprocessing.get_context("fork")
    port = _free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_run, args=(job, rank, size, port, pipes[rank][1]))
        for rank in range(size)
    ]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    try:
        results = []
        for rank, (pipe, _) in enumerate(pipes):
            assert pipe.poll(seconds), f"rank {rank} did not answer"
            results.append(pickle.loads(pipe.recv_bytes()))
        failures = [text for is_done, text in results if not is_done]
        assert not failures, "\n".join(failures)
        return [value for _, value in results]
    finally:
        for process in processes:
            process.join(1)
            process.kill()


def on_ranks(job: Callable[[Ranks], Any], *, size: int = 2) -> list[Any]:
    """What the job gives on each rank of a run on the CPU."""

    def connect(rank: int) -> Any:
        with connected("cpu") as ranks:
            assert (ranks.rank, ranks.size) == (rank, size)
            return job(ranks)

    return forked(connect, size=size)


def division(ranks: Ranks, sharding: str) -> Divided:
    return Divided(ranks, sharding=Sharding(ranks) if sharding == "fsdp" else None)


def _run(job: Callable[[int], Any], rank: int, size: int, port: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        pipe.send_bytes(pickle.dumps((True, job(rank))))
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        pipe.close()
        sys.stdout.flush()
        os._exit(0)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
