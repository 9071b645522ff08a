"""A verifier whose copies grade on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

from grlo import registry
from grlo.interfaces import BuildContext, Verifier
from grlo.ray_cluster import RayCluster, RayWorkers
from grlo.settings import Plugin, require
from grlo.types import Prompt, Score


@dataclass(frozen=True)
class RayVerifierSettings:
    """Any verifier, on as many processes as a cluster has.

    [reward]
    name = "verified"
    [reward.verifier]
    name = "ray"
    address = "auto"
    [reward.verifier.verifier]
    name = "code"
    """

    verifier: Annotated[object, Plugin("verifier")]
    """Settings of the verifier; its name alone will do."""
    name: str = "ray"
    address: str = "auto"
    """Of the cluster; see `grlo.ray_cluster.RayCluster`."""
    num_workers: int = 0
    """Answers that are graded at a time; 0 is one for each CPU of the cluster."""

    def __post_init__(self) -> None:
        require(bool(self.address), "address must not be empty")
        require(self.num_workers >= 0, "num_workers must not be negative")

    def build(self, *, context: BuildContext) -> Verifier:
        """The verifier; the cluster is asked for at the first answer."""
        return RayVerifier(self, here=cast(Any, self.verifier).build(context=context))


class RayVerifier:
    """Grades by the copies of a verifier; scores are those of the verifier alone.

    Args:
        settings: What is copied, and where.
        here: The verifier in this process, which says what it is and grades nothing.
    """

    def __init__(self, settings: RayVerifierSettings, *, here: Verifier) -> None:
        self._settings, self._here = settings, here
        self._workers: RayWorkers | None = None
        # Results are those of the verifier, wherever it runs.
        self.__qualname__ = str(registry.identity(here)["name"])

    @property
    def num_workers(self) -> int:
        """Threads from which it may be called."""
        return self._opened().num_workers

    def __call__(self, prompt: Prompt, text: str) -> Score:
        """See `Verifier`."""
        return self._opened().call("__call__", prompt, text)

    def identity(self) -> dict[str, object]:
        """What the verifier says of itself."""
        return {key: x for key, x in registry.identity(self._here).items() if key != "name"}

    def describe(self) -> dict[str, object]:
        """Likewise, with where it runs."""
        return {**registry.describe(self._here), "ray": self._settings.address}

    def close(self) -> None:
        """Ends the workers."""
        registry.close(self._here)
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _opened(self) -> RayWorkers:
        if self._workers is None:
            settings = self._settings
            self._workers = RayWorkers(
                partial(_build, settings.verifier),
                cluster=RayCluster(settings.address, settings.num_workers),
                num_cpus=0,
            )
        return self._workers


def _build(settings: object) -> Verifier:
    return cast(Any, settings).build(context=BuildContext(device="cpu", seed=0))
