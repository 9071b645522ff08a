"""The vLLM engine: continuous batching with paged keys and values.

vLLM runs in this process. Every completion is a request of its own with a seed of its own; those of
one prompt share its keys and values through vLLM's prefix cache.

In training vLLM has weights of its own, which `load_weights` overwrites in place after every step.
On a GPU it shares the learner's and sleeps between calls: its weights then lie in host memory, its
cache nowhere. It wakes in stages, weights when new ones come and the cache when something is drawn,
so that the cache is not there yet while weights are copied. (vLLM's sleep level 1. Level 2 would
spare two copies of the weights a step, but an engine that is asked twice without new weights, as
for an evaluation or a second draw, would answer from memory that holds anything.)

Of several processes that train together each has an engine on its own GPU, or `tensor_parallel` of
them have one together. vLLM then starts no processes of its own: it is the worker that the process
is in (its executor `external_launcher`), and those that share an engine are given the same prompts.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from grlo.engines.vllm_requests import (
    check_request,
    complete_weights,
    make_completion,
    sampling_arguments,
)
from grlo.errors import EngineError, MissingExtraError, ModelError
from grlo.interfaces import BuildContext, OnCompletion, Progress, ignore, silent
from grlo.modeling.adapters import class_name, merged_weights, plain_model
from grlo.seeding import derive_seed
from grlo.settings import Dtype, require
from grlo.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GIB = 2**30
_CPU_CACHE_GIB = 2.0


@dataclass(frozen=True)
class VLLMEngineSettings:
    """vLLM (Kwon et al. 2023, arXiv 2309.06180); needs the extra `vllm`."""

    weights_place: ClassVar[str] = "own"
    """Whose weights it draws with in training, for estimates of memory: `own` on the learner's
    device, `remote`, or without this attribute the learner's where their types agree."""

    name: str = "vllm"
    dtype: Dtype | None = None
    """Type that the engine computes in; None is the one that the checkpoint names."""
    tensor_parallel: int = 1
    """GPUs that the model is spread over; in training processes of the run, each with its GPU, and
    a divisor of their number."""
    gpu_memory_utilization: float = 0.9
    """Share of each GPU's memory for weights, activations, keys and values together; in training
    of what the learner and reward models before it leave free."""
    cache_gib: float = 0.0
    """GiB for keys and values; 0 is what `gpu_memory_utilization` leaves, on a CPU 2."""
    max_model_len: int = 0
    """Most tokens of prompt and answer; 0 is the model's own limit, or what fits into memory."""
    max_rows: int = 0
    """Completions decoded together; 0 is vLLM's choice."""
    enforce_eager: bool = False
    """Neither compilation nor CUDA graphs: starts sooner, decodes more slowly."""
    enable_sleep_mode: bool = True
    """In training on a GPU, give the memory back between calls: the weights wait in host memory."""

    def __post_init__(self) -> None:
        require(self.tensor_parallel > 0, "tensor_parallel must be positive")
        require(
            0 < self.gpu_memory_utilization <= 1, "gpu_memory_utilization must lie within (0, 1]"
        )
        require(self.cache_gib >= 0, "cache_gib must not be negative")
        require(self.max_model_len >= 0, "max_model_len must not be negative")
        require(self.max_rows >= 0, "max_rows must not be negative")

    def check_training(self, *, num_ranks: int = 1) -> None:
        """Raises what would keep `build` from making an engine for a learner.

        Args:
            num_ranks: Processes that train together.

        Raises:
            MissingExtraError: vLLM is not installed.
            EngineError: The processes cannot be divided among engines.
        """
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtraError("vllm", extra="vllm")
        if num_ranks % self.tensor_parallel:
            raise EngineError(
                f"engine.tensor_parallel = {self.tensor_parallel}, but in training vLLM shares the "
                f"learners' processes, of which there are {num_ranks}, each with its one GPU. Set "
                "it to 1, or start a multiple of it (grlo train --devices N)."
            )

    def build(
        self, model: PreTrainedModel, *, context: BuildContext, live: bool = True
    ) -> VLLMEngine:
        """The engine of a module, with a copy of its weights as they are now.

        vLLM starts from the module's configuration alone and is then given the weights in memory,
        adapters merged in, as after every step.

        Args:
            model: A causal language model, with or without active peft adapters.
            context: Where it runs. With `save_tokenizer`, the engine knows
                `SamplingParams.stop_texts`; on a GPU `reserved_bytes` are left free.
            live: The module is a learner's, with which the engine shares the device.

        Raises:
            MissingExtraError: vLLM is not installed.
            EngineError: The settings are for evaluation only, the installed vLLM is for another
                device, or it cannot start.
        """
        self.check_training(num_ranks=context.num_ranks)
        with TemporaryDirectory(prefix="grlo_vllm_") as folder:
            _save_without_weights(model, Path(folder), context)
            engine = VLLMEngine(
                folder,
                self,
                context=context,
                load_format="dummy",
                has_tokenizer=context.save_tokenizer is not None,
                shares_device=live,
            )
        with torch.no_grad():
            engine.load_weights(merged_weights(model))
        engine.sleep()
        return engine

    def build_from_path(
        self, path: str, *, context: BuildContext, revision: str | None = None
    ) -> VLLMEngine:
        """The engine of a saved model.

        Args:
            path: Folder or hub id of a causal language model, safetensors only.
            context: Where it runs. With `decode`, the engine loads the folder's tokenizer and
                knows `SamplingParams.stop_texts`.
            revision: Commit or tag on the hub.

        Raises:
            MissingExtraError: vLLM is not installed.
            EngineError: The installed vLLM is for another device, or cannot start.
            ModelError: There is no such model.
        """
        return VLLMEngine(
            path,
            self,
            context=context,
            revision=revision,
            has_tokenizer=context.decode is not None,
        )


class VLLMEngine:
    """Draws completions with vLLM; one at a time in a process.

    A sample's noise depends on its own seed only, but its logits are rounded as the batch around it
    is cut, so that a draw at the edge of two tokens may fall otherwise in other company.

    Args:
        path: Folder or hub id of a causal language model.
        settings: How vLLM is set up.
        context: See `VLLMEngineSettings`.
        revision: Commit or tag on the hub.
        load_format: vLLM's word for where the first weights come from; `dummy` are random ones.
        has_tokenizer: The folder has a tokenizer, which `SamplingParams.stop_texts` needs.
        shares_device: A learner has the rest of the device, and all of it between calls.
    """

    def __init__(
        self,
        path: str,
        settings: VLLMEngineSettings,
        *,
        context: BuildContext,
        revision: str | None = None,
        load_format: str = "safetensors",
        has_tokenizer: bool = False,
        shares_device: bool = False,
    ) -> None:
        self.device = context.device
        self._empty = _without_weights(path, revision)
        self._vllm = _import_vllm()
        self._in_ranks = in_ranks = shares_device and context.num_ranks > 1
        _check_device(self._vllm, context.device, in_ranks=in_ranks)
        # Workers of its own are out of reach for weights.
        self._takes_weights = in_ranks or settings.tensor_parallel == 1
        self._has_tokenizer = has_tokenizer
        is_cpu = torch.device(context.device).type == "cpu"
        self._sleeps = shares_device and settings.enable_sleep_mode and not is_cpu
        self._asleep: list[str] = []
        utilization = settings.gpu_memory_utilization
        if shares_device and not is_cpu:
            utilization *= _free_share(context)
        cache_gib = settings.cache_gib or (_CPU_CACHE_GIB if is_cpu else 0.0)
        arguments = self._vllm.EngineArgs(
            model=path,
            revision=revision,
            tokenizer_revision=revision,
            skip_tokenizer_init=not self._has_tokenizer,
            load_format=load_format,
            trust_remote_code=False,
            dtype=settings.dtype or "auto",
            tensor_parallel_size=settings.tensor_parallel,
            distributed_executor_backend="external_launcher" if in_ranks else None,
            gpu_memory_utilization=utilization,
            kv_cache_memory_bytes=round(cache_gib * _GIB) or None,
            max_model_len=settings.max_model_len or -1,
            max_num_seqs=settings.max_rows or None,
            enforce_eager=settings.enforce_eager,
            enable_prefix_caching=True,
            enable_sleep_mode=self._sleeps,
            # A prompt in two pieces has its seeded generator rewound, which none on a CPU can be.
            enable_chunked_prefill=False if is_cpu else None,
            seed=context.seed % 2**32,
            # After temperature, top-k and top-p.
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
        self._engine: Any = _start(self._vllm, arguments, path, in_ranks=in_ranks)
        if in_ranks:  # Its end takes down the groups of ranks, which the learners need.
            context.at_end(self._end)
        self._max_model_len: int = self._engine.model_config.max_model_len

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        seeds: Sequence[int],
        progress: Progress = silent,
        on_completion: OnCompletion = ignore,
    ) -> list[Completion]:
        """`sampling.num_samples` completions per prompt, prompt-major.

        At temperature 0 the log-probabilities are those at temperature 1.

        Args:
            prompts: Token ids of each prompt, not padded, at least one each.
            sampling: How to draw.
            seeds: One seed per prompt.
            progress: Called as completions finish.
            on_completion: Likewise, with each of them.

        Raises:
            EngineError: `sampling` or a prompt cannot be used.
        """
        check_request(
            prompts,
            sampling,
            seeds,
            engine="vllm",
            is_closed=self._engine is None,
            vocab_size=self._vocab_size,
            max_model_len=self._max_model_len,
            has_tokenizer=self._has_tokenizer,
        )
        if not prompts:
            return []
        self._wake("weights", "kv_cache")
        total = len(prompts) * sampling.num_samples
        completions: list[Completion | None] = [None] * total
        unfinished: set[str] = set()
        num_tokens = 0
        try:
            for index in range(total):
                prompt, sample = divmod(index, sampling.num_samples)
                unfinished.add(str(index))
                self._engine.add_request(
                    str(index),
                    {"prompt_token_ids": list(prompts[prompt])},
                    self._params(sampling, seed=derive_seed(seeds[prompt], "sample", sample)),
                )
            while unfinished:
                for output in self._engine.step():
                    index, completion = int(output.request_id), _completion(output.outputs[0])
                    unfinished.discard(output.request_id)
                    completions[index] = completion
                    num_tokens += len(completion.tokens)
                    on_completion(index, completion)
                    progress(done=total - len(unfinished), total=total, tokens=num_tokens)
        finally:
            # After an interruption, so that the next call does not go on with this one's requests.
            if unfinished:
                self._engine.abort_request(list(unfinished))
            self.sleep()
        return [completion for completion in completions if completion is not None]

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Loads weights under the names of the Hugging Face checkpoint, in place.

        Of a tied weight's names one is enough. After an error from vLLM the weights are a mixture
        and the engine must not be used.

        Raises:
            EngineError: A name is unknown or missing, a shape is wrong, vLLM cannot take a weight
                under its name, or the engine runs on several GPUs.
        """
        if not self._takes_weights:
            raise EngineError(
                "engine 'vllm' cannot take new weights on several GPUs; set tensor_parallel = 1."
            )
        weights = complete_weights(self._empty, dict(named_tensors))
        self._wake("weights")
        try:
            self._engine.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": iter(weights.items())}
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM could not take over the weights ({error!r}).") from error
        # Keys and values of earlier prompts are those of the old weights.
        if not self._engine.reset_prefix_cache():
            raise EngineError("vLLM kept keys and values of the old weights; start a new engine.")

    def sleep(self) -> None:
        """Gives the memory of a device that is shared back until the next call."""
        if self._sleeps:
            self._engine.sleep(level=1)
            self._asleep = ["weights", "kv_cache"]

    def _wake(self, *parts: str) -> None:
        for part in parts:
            if part not in self._asleep:
                continue
            try:
                self._engine.wake_up(tags=[part])
            except RuntimeError as error:
                raise EngineError(
                    f"vLLM found no room on the GPU for its {part} again ({error}). Lower "
                    "engine.cache_gib or engine.gpu_memory_utilization."
                ) from error
            self._asleep.remove(part)

    def close(self) -> None:
        """Ends vLLM and gives its memory back; among ranks that waits for the end of their work."""
        if not self._in_ranks:
            self._end()

    def _end(self) -> None:
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None

    @property
    def _vocab_size(self) -> int:
        return self._empty.config.get_text_config().vocab_size

    def _params(self, sampling: SamplingParams, *, seed: int) -> Any:
        return self._vllm.SamplingParams(
            **sampling_arguments(sampling, seed=seed, vocab_size=self._vocab_size),
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )


def _completion(output: Any) -> Completion:
    logprobs = [
        logprobs[token].logprob
        for token, logprobs in zip(output.token_ids, output.logprobs, strict=True)
    ]
    return make_completion(output.token_ids, logprobs, output.finish_reason)


def _import_vllm() -> Any:
    # In this process, so that weights can be handed over and memory is counted in one place.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vllm = importlib.import_module("vllm")
            for part in ("distributed", "platforms", "sampling_params", "usage.usage_lib"):
                importlib.import_module(f"vllm.{part}")
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise MissingExtraError("vllm", extra="vllm") from error
    return vllm


def _start(vllm: Any, arguments: Any, path: str, *, in_ranks: bool) -> Any:
    if torch.distributed.is_initialized() and not in_ranks:
        raise EngineError(
            "vLLM needs this process for itself, but torch.distributed is in use here: close the "
            "other vLLM engine, or evaluate in a process of its own."
        )
    set_num_threads = torch.set_num_threads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The context sets how many rows and tokens a step takes: here as many as offline.
            return vllm.LLMEngine.from_engine_args(
                arguments, usage_context=vllm.usage.usage_lib.UsageContext.LLM_CLASS
            )
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        if not in_ranks:  # Whose groups are the learners' too.
            vllm.distributed.cleanup_dist_env_and_memory()
        raise EngineError(f"{path}: vLLM could not start ({error}).") from error
    finally:
        # On a CPU vLLM replaces it by a function that does nothing.
        torch.set_num_threads = set_num_threads


def _check_device(vllm: Any, device: str, *, in_ranks: bool) -> None:
    asked, built = torch.device(device), vllm.platforms.current_platform.device_type
    if asked.type != built:
        raise EngineError(
            f"the device is {device!r}, but the vLLM that is installed here runs on {built!r}. "
            f"Set the device to {built!r}, or take engine 'hf'."
        )
    if asked.index and not in_ranks:  # There it takes the GPU of LOCAL_RANK.
        raise EngineError(
            f"engine 'vllm' takes the first GPU that is visible, not {device!r}. Set "
            f"CUDA_VISIBLE_DEVICES={asked.index} and the device to {built!r}."
        )


def _free_share(context: BuildContext) -> float:
    """The part of the GPU's memory that neither is taken nor will be.

    Raises:
        EngineError: Nothing is left.
    """
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(context.device)
    if free <= context.reserved_bytes:
        raise EngineError(
            f"of the GPU's {total / _GIB:.1f} GiB {free / _GIB:.1f} are free, and the optimizers "
            f"will take {context.reserved_bytes / _GIB:.1f}: nothing is left for engine 'vllm'. "
            "Train adapters (policy.lora, critic.lora)."
        )
    return (free - context.reserved_bytes) / total


def _save_without_weights(model: PreTrainedModel, folder: Path, context: BuildContext) -> None:
    """What vLLM reads of a model besides its weights."""
    plain = plain_model(model)
    config = copy.deepcopy(plain.config)
    config.architectures = [class_name(plain)]
    config.save_pretrained(folder)
    if context.save_tokenizer is not None:
        context.save_tokenizer(folder)


def _without_weights(path: str, revision: str | None) -> PreTrainedModel:
    """The model's module without memory, for names and shapes of its weights."""
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: no language model could be found ({error}).") from error
