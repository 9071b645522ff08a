"""Errors that a user can act on: what was found, what was expected, what to do."""


class GrloError(Exception):
    """Base of every error that is the user's to mend; the CLI prints it without a traceback."""

    exit_status = 1
    """Of a command that it ends."""


class RecipeError(GrloError):
    """A recipe names an unknown key, has a wrong type, or asks for something that cannot run."""


class DataError(GrloError):
    """A data row or file is malformed; the message names file, line and reason."""


class ModelError(GrloError):
    """A checkpoint, tokenizer or chat template cannot be used as it is."""


class CheckpointError(GrloError):
    """A run directory or checkpoint is damaged, foreign, or disagrees with the recipe."""


class NonFiniteError(GrloError):
    """A loss or gradient is NaN or infinite; raised before the optimizer moves."""


class DeviceMemoryError(GrloError):
    """The memory of a device does not hold the smallest piece that work can be cut into."""


class LostRankError(GrloError):
    """Another process of a run on several devices has ended; the reason is what that one said."""

    exit_status = 3


class EngineError(GrloError):
    """A rollout engine was asked for something it cannot do."""


class RewardError(GrloError):
    """A reward cannot be built or was given what it cannot score."""


class EndpointError(GrloError):
    """A remote model cannot be asked at all: key, address, model name, credit, or an outage."""


class ClusterError(GrloError):
    """A Ray cluster cannot be reached, is too small, or has lost a worker for good."""


class SandboxError(GrloError):
    """Programs cannot be run in isolation on this machine, or their sandbox cannot be used."""


class MissingExtraError(GrloError):
    """An optional dependency is needed but not installed.

    Args:
        module: The module that could not be imported.
        extra: The extra of this package that installs it.
    """

    def __init__(self, module: str, *, extra: str) -> None:
        super().__init__(f"{module} is not installed. Install it with: pip install 'grlo[{extra}]'")
