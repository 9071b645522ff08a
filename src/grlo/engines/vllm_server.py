"""vLLM's own server as the engine of a training run, on other devices than the learner's.

Tokens go to its endpoint `/inference/v1/generate` and come back with log-probabilities. New weights
pass through a folder that both sides see, and the server copies them over its old ones in place
(`reload_weights`); its version of the weights, which comes with every answer, says that it has.
(vLLM's transfers from GPU to GPU, by NCCL or CUDA IPC, are not used.)
"""

from __future__ import annotations

import copy
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from grlo.engines.vllm_requests import (
    check_request,
    complete_weights,
    make_completion,
    sampling_arguments,
)
from grlo.errors import EngineError
from grlo.interfaces import BuildContext, OnCompletion, Progress, ignore, silent
from grlo.modeling.adapters import merged_weights, plain_model
from grlo.seeding import derive_seed
from grlo.settings import Dtype, require
from grlo.types import Completion, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

_EXCERPT = 300
"""Characters of a server's own words in an error."""


@dataclass(frozen=True)
class VLLMServerEngineSettings:
    """A server of vLLM (0.32 or later) that serves this run alone.

    It is started with the policy's model or one of its shape:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out \\
            --logprobs-mode processed_logprobs --dtype bfloat16

    Its endpoints for development obey anyone who reaches it: keep it on a private network.
    """

    weights_place: ClassVar[str] = "remote"

    name: str = "vllm_server"
    url: str = ""
    """Where it listens, such as `http://gpu-host:8000`."""
    weights_folder: str = ""
    """Folder that this process and the server see under the same absolute path; weights pass
    through it after every step. On one machine best in memory, such as `/dev/shm`."""
    dtype: Dtype | None = None
    """Type that the server computes in (its `--dtype`); None is the policy's."""
    concurrency: int = 256
    """Completions asked for at a time; the server decodes as many of them together as it can."""
    timeout_seconds: float = 3600.0
    """Longest wait for one completion, or for the server to take over weights."""

    def __post_init__(self) -> None:
        require(self.concurrency > 0, "concurrency must be positive")
        require(self.timeout_seconds > 0, "timeout_seconds must be positive")

    def check_training(self, *, num_ranks: int = 1) -> None:
        """Raises what is wrong with the settings themselves.

        Args:
            num_ranks: Processes that train together; the leader alone asks the server.

        Raises:
            EngineError: A setting is missing, or the folder is not there.
        """
        if not self.url.startswith(("http://", "https://")):
            raise EngineError(
                f"engine.url = {self.url!r}; engine 'vllm_server' needs the address of a running "
                "server, such as 'http://gpu-host:8000'."
            )
        folder = Path(self.weights_folder)
        if not folder.is_absolute() or not folder.is_dir():
            raise EngineError(
                f"engine.weights_folder = {self.weights_folder!r} is no absolute path of a folder. "
                "Name one that the server sees under the same path."
            )

    def build(
        self, model: PreTrainedModel, *, context: BuildContext, live: bool = True
    ) -> VLLMServerEngine:
        """The engine, after the server has taken over the module's weights.

        Args:
            model: A causal language model, with or without active peft adapters.
            context: Not needed: the server has its own device and tokenizer.
            live: Likewise; weights are copied either way.

        Raises:
            EngineError: The server cannot be reached, or was started in another way than it must.
        """
        self.check_training()
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(copy.deepcopy(plain_model(model).config))
        engine = VLLMServerEngine(self, empty)
        with torch.no_grad():
            engine.load_weights(merged_weights(model))
        return engine


class VLLMServerEngine:
    """Draws completions from a server.

    Args:
        settings: Where the server is.
        model: The policy's module, which may be on the device `meta`: for names and shapes.

    Raises:
        EngineError: The server cannot be reached, or was started in another way than it must.
    """

    def __init__(self, settings: VLLMServerEngineSettings, model: PreTrainedModel) -> None:
        self.device = "elsewhere"
        self._settings, self._model = settings, model
        self._is_closed = False
        self._version = ""
        config = self._ask("/server_info?config_format=json")["vllm_config"]["model_config"]
        self._max_model_len: int = config["max_model_len"]
        self._dtype = config["dtype"].removeprefix("torch.")
        expected = {"logprobs_mode": "processed_logprobs"}
        if settings.dtype is not None:
            expected["dtype"] = f"torch.{settings.dtype}"
        for name, value in expected.items():
            if config[name] != value:
                raise EngineError(
                    f"{settings.url}: the server's {name} is {config[name]!r}, expected {value!r}. "
                    f"Start it with --{name.replace('_', '-')} {value.removeprefix('torch.')}."
                )

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
            sampling: How to draw; `stop_texts` need the server's tokenizer.
            seeds: One seed per prompt.
            progress: Called as completions finish.
            on_completion: Likewise, with each of them.

        Raises:
            EngineError: `sampling` or a prompt cannot be used, the server fails, or it has weights
                of another sender.
        """
        vocab_size = self._model.config.get_text_config().vocab_size
        check_request(
            prompts,
            sampling,
            seeds,
            engine="vllm_server",
            is_closed=self._is_closed,
            vocab_size=vocab_size,
            max_model_len=self._max_model_len,
            has_tokenizer=True,
        )
        total, num_tokens = len(prompts) * sampling.num_samples, 0

        def draw(index: int) -> Completion:
            prompt, sample = divmod(index, sampling.num_samples)
            seed = derive_seed(seeds[prompt], "sample", sample)
            arguments = sampling_arguments(sampling, seed=seed, vocab_size=vocab_size)
            body = {"token_ids": list(prompts[prompt]), "sampling_params": arguments}
            return self._completion(self._ask("/inference/v1/generate", body))

        completions: list[Completion | None] = [None] * total
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="vllm_server")
        try:
            futures = {pool.submit(draw, index): index for index in range(total)}
            for done, future in enumerate(as_completed(futures), start=1):
                index, completion = futures[future], future.result()
                completions[index] = completion
                num_tokens += len(completion.tokens)
                on_completion(index, completion)
                progress(done=done, total=total, tokens=num_tokens)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            with suppress(EngineError):  # What went wrong first matters.
                self._ask("/abort_requests", {})
            raise
        finally:
            pool.shutdown()
        return [completion for completion in completions if completion is not None]

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Has the server take over weights under the names of the Hugging Face checkpoint.

        Of a tied weight's names one is enough.

        Raises:
            EngineError: A name is unknown or missing, a shape is wrong, the folder cannot be
                written, or the server cannot take the weights over.
        """
        weights = complete_weights(self._model, dict(named_tensors))
        dtype = getattr(torch, self._dtype)
        try:
            with TemporaryDirectory(dir=self._settings.weights_folder, prefix="grlo_") as folder:
                # safetensors refuses tensors that share memory, as tied ones do.
                tensors = {
                    name: tensor.detach().to("cpu", dtype, copy=True).contiguous()
                    for name, tensor in weights.items()
                }
                save_file(tensors, Path(folder) / "model.safetensors")
                del tensors
                # For a server under another user.
                Path(folder).chmod(0o755)
                with self._paused():
                    self._ask(
                        "/collective_rpc",
                        {
                            "method": "reload_weights",
                            "kwargs": {"weights_path": folder},
                            "timeout": self._settings.timeout_seconds,
                        },
                    )
                    self._version = uuid4().hex
                    self._ask("/update_weight_version", {"new_version": self._version})
        except OSError as error:
            raise EngineError(
                f"engine.weights_folder: weights cannot be written there ({error})."
            ) from error

    def close(self) -> None:
        """Leaves the server alone; it keeps running."""
        self._is_closed = True

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Drops what is being drawn and all keys and values, which are those of old weights."""
        self._ask("/pause?mode=abort", {})
        yield
        self._ask("/resume", {})

    def _completion(self, reply: Mapping[str, Any]) -> Completion:
        (choice,) = reply["choices"]
        versions = {span["version"] for span in choice["weight_versions"] or ()}
        if versions != {self._version}:
            raise EngineError(
                f"{self._settings.url} drew with other weights than it was given: another run uses "
                "it, or it was started again. Give each run a server of its own."
            )
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        return make_completion(choice["token_ids"], logprobs, choice["finish_reason"])

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply to a GET, or to a POST where there is a body."""
        url = self._settings.url.rstrip("/") + path
        request = urllib.request.Request(
            url,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._settings.timeout_seconds) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise EngineError(_refusal(url, error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineError(
                f"{url}: no reply of a vLLM server ({error}). Is it running, and engine.url right?"
            ) from error


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    said = error.read().decode(errors="replace")[:_EXCERPT]
    if error.code in (403, 404):
        return (
            f"{url}: the server has no such endpoint ({error.code} {said}). Start it with "
            "VLLM_SERVER_DEV_MODE=1 in its environment and --enable-scale-out."
        )
    return f"{url}: the server failed ({error.code} {said}). Its own log says more."
