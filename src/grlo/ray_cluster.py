"""Work on a Ray cluster: objects that live in processes of their own and answer calls.

Ray starts a process again when it or its machine is lost, and repeats the call that it was in. What
a call returns is all that it does for its caller, so a repeated call leaves nothing twice.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grlo.errors import ClusterError, MissingExtraError


@dataclass(frozen=True)
class RayCluster:
    """Where work is to be done."""

    address: str
    """`auto` for the cluster that this machine belongs to, `host:port`, `ray://host:port`; `local`
    starts one on this machine."""
    num_workers: int = 0
    """0 is one for each GPU of the cluster where workers need one, else one for each CPU."""


def open_ray(address: str) -> Any:
    """The module `ray`, connected to the cluster at an address.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: There is no cluster.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", extra="ray") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ClusterError(
                f"no Ray cluster at {address!r}: {error}. Start one with `ray start --head`."
            ) from error
    return ray


class RayWorkers:
    """Copies of one object on a cluster. Safe to call from many threads.

    Args:
        make: Makes the object in a worker's process, at its first call; has to be picklable.
        cluster: Where, and how many.
        num_gpus: That each needs.
        num_cpus: That each takes of the cluster's account; 0 fits beside what draws the answers.

    Raises:
        ClusterError: See `open_ray`; or the cluster has no such device.
    """

    def __init__(
        self,
        make: Callable[[], object],
        *,
        cluster: RayCluster,
        num_gpus: float = 0.0,
        num_cpus: float = 1.0,
    ) -> None:
        self._ray = ray = open_ray(cluster.address)
        kind = "GPU" if num_gpus else "CPU"
        there = ray.cluster_resources().get(kind, 0.0)
        self.num_workers = cluster.num_workers or int(there / (num_gpus or 1))
        needed = self.num_workers * (num_gpus or 1)
        if not self.num_workers or needed > there:
            raise ClusterError(
                f"the cluster at {cluster.address!r} has {there:g} {kind}s; "
                f"{max(needed, 1):g} are needed."
            )
        worker = ray.remote(_Worker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, max_task_retries=-1
        )
        self._actors = [worker.remote(make) for _ in range(self.num_workers)]
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for actor in self._actors:
            self._free.put(actor)

    def call(self, method: str, *args: object) -> Any:
        """What a method of one of the objects returns; waits for one that is free.

        Raises:
            Exception: What the method raises.
            ClusterError: A worker is lost for good.
        """
        actor = self._free.get()
        try:
            return self._ray.get(actor.call.remote(method, args))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"a worker of the cluster was lost: {error}") from error
        finally:
            self._free.put(actor)

    def close(self) -> None:
        """Ends the workers."""
        for actor in self._actors:
            self._ray.kill(actor)


class _Worker:
    """A process of the cluster."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._made: Any = None

    def call(self, method: str, args: tuple[object, ...]) -> object:
        """Asks the object, which is made first if need be."""
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, method)(*args)
