"""`grlo check`: shows what a recipe will do, and finds what would fail hours later."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grlo import registry
from grlo.errors import CheckpointError, GrloError, ModelError, RecipeError
from grlo.estimates import (
    PHASES,
    MemoryItem,
    ModelShape,
    estimate_memory,
    forward_flops,
    peak_bytes,
    phase_bytes,
    read_shape,
)
from grlo.interfaces import BuildContext, Reward
from grlo.memory_plan import MOST_TOKENS, USABLE_SHARE
from grlo.prompts.sources import (
    count_duplicates,
    listed,
    prompt_lengths,
    read_prompts,
    split_overlong,
    suffix_problems,
)
from grlo.recipe import differences, format_recipe, load_dumped, load_recipe
from grlo.rewards import SingleReward, single_rewards, style_problems
from grlo.rollout import ChatRenderer, check_compatible
from grlo.rundir import RunDir
from grlo.settings import Dtype, Recipe
from grlo.trackers import TRACKERS
from grlo.training.distributed.problems import device_problems
from grlo.types import Completion, Message, Prompt, Rollout

MAX_LINES_SHOWN = 24
MAX_TOKENS_SHOWN = 120
SAMPLE_ANSWER = "This is an answer."
TRIAL_PROMPTS, TRIAL_SAMPLES, TRIAL_TOKENS = 2, 2, 16
"""Size of the step that is tried."""
_SHARDINGS = {
    "ddp": "whole models on each (ddp)",
    "fsdp": "models in shards over all (fsdp)",
}


@dataclass
class _Findings:
    """What is wrong, and what could not be looked at."""

    is_offline: bool
    """Whether files that are not here are no fault: they are reported as not checked."""
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Goes on after a user's error, which becomes a problem."""
        try:
            yield
        except GrloError as error:
            self.problems.append(str(error))

    def absent(self, what: str) -> None:
        """Something is not on this machine."""
        (self.unchecked if self.is_offline else self.problems).append(what)


@dataclass(frozen=True)
class _Model:
    """A checkpoint without its weights."""

    name: str
    folder: Path
    shape: ModelShape


def check(
    recipes: Sequence[Path],
    *,
    overrides: Sequence[str] = (),
    run_dir: Path | None = None,
    weights: bool = True,
    num_devices: int = 1,
) -> None:
    """Prints what a recipe will do.

    Args:
        recipes: TOML files, merged left to right.
        overrides: `section.key=value`, applied last.
        run_dir: Where the run is to be written; its disk is looked at.
        weights: Whether models and prompt files have to be on this machine (or the hub in reach);
            if nothing else is wrong, one small step is made with them. If not, what is missing is
            reported as not checked.
        num_devices: That the run is to be made on: memory is that of each, and has to suffice. The
            small step is made on one.

    Raises:
        RecipeError: Everything that would make the run fail, as one list.
    """
    recipe = load_recipe(recipes, overrides=overrides)
    findings = _Findings(is_offline=not weights)
    findings.problems += device_problems(recipe, num_devices=num_devices)
    _heading("Recipe")
    print(format_recipe(recipe))
    policy = _find_model("policy", recipe.policy.model, recipe.policy.revision, findings)
    renderer = None
    if policy is not None:
        renderer = _check_renderer(policy, recipe.policy.template, findings)
        _check_context(policy.shape, recipe, findings)
        if policy.shape.num_labels:
            findings.problems.append(
                f"policy: {policy.name} is a classifier; expected a causal language model."
            )
    prompts = _check_prompts(recipe, renderer, findings)
    if renderer is not None:
        example = prompts[0].messages if prompts else (Message("user", "Hello!"),)
        with findings.collect():
            _show_prompt(renderer, example)
    rewards = _check_rewards(recipe.reward, prompts, findings, key="reward")
    gold_rewards = _check_gold(recipe, prompts, findings)
    _check_evaluation(recipe, findings)
    critic = _check_critic(recipe, policy, renderer, findings)
    _check_software(recipe, findings, num_devices=num_devices)
    _show_schedule(recipe, prompts)
    if policy is not None:
        critic_shape = critic.shape if critic else None
        _show_costs(
            recipe,
            policy.shape,
            critic=critic_shape,
            rewards=rewards,
            gold=gold_rewards,
            findings=findings,
            num_devices=num_devices,
        )
        if run_dir is not None:
            _check_disk(run_dir, recipe, policy.shape, critic_shape, findings)
    elif run_dir is not None:
        findings.unchecked.append(f"disk space of {run_dir}: the policy's size is not known")
    if run_dir is not None:
        _check_run(run_dir, recipe, findings)
    if not weights:
        findings.unchecked.append("one step with the real weights: --no-weights")
    elif findings.problems or renderer is None:
        findings.unchecked.append("one step with the real weights: mend the problems first")
    else:
        _try_step(recipe, renderer, prompts, findings, num_devices=num_devices)
    _conclude(findings)


def _conclude(findings: _Findings) -> None:
    _heading("Result")
    for what in findings.unchecked:
        print(f"not checked: {what}")
    if findings.problems:
        count = len(findings.problems)
        raise RecipeError(
            "\n".join(
                [
                    f"{count} problem{'s' * (count > 1)} would make this run fail:",
                    *(f"- {problem}" for problem in findings.problems),
                ]
            )
        )
    print("No problem found" + (" in what could be checked." if findings.unchecked else "."))


# Models -------------------------------------------------------------------------------------------


def _find_model(role: str, model: str, revision: str | None, findings: _Findings) -> _Model | None:
    """The configuration of a checkpoint, if it is here or can be fetched."""
    with findings.collect():
        folder = find_folder(model, revision=revision, download=not findings.is_offline)
        if folder is None:
            findings.absent(f"{role}: the model {model!r} is not on this machine")
            return None
        if not (folder / "config.json").is_file() and findings.is_offline:
            findings.absent(f"{role}: {folder / 'config.json'} is not there")
            return None
        if Path(model).is_dir() and not findings.is_offline:
            _check_weight_files(role, folder, findings)
        return _Model(name=model, folder=folder, shape=read_shape(folder))
    return None


def find_folder(model: str, *, revision: str | None, download: bool) -> Path | None:
    """The folder that holds a model's configuration and tokenizer; its weights are not fetched.

    Args:
        model: Folder or hub id.
        revision: Commit or tag on the hub.
        download: Whether the hub may be asked for what is not in its cache.

    Returns:
        None if there is no such folder, or the hub's cache does not hold the model.

    Raises:
        ModelError: The name is neither a folder nor a hub id, or the hub does not give it.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        return Path(model)
    if Path(model).is_absolute():
        return None
    try:
        if download:
            patterns = ["*.json", "*.jinja", "*.txt", "*.model"]
            return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor a hub id: {error}") from error
    except Exception as error:  # The hub client has no common base for its errors.
        raise ModelError(
            f"{model!r} is no folder here, and the hub does not give it: {error}. Check the name, "
            "the network, and `hf auth login` for gated models."
        ) from error
    return Path(cached).parent if isinstance(cached, str) else None


def _check_weight_files(role: str, folder: Path, findings: _Findings) -> None:
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            findings.problems.append(f"{role}: {index} cannot be read: {error}")
            return
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        findings.problems.append(
            f"{role}: {folder} lacks the weights {', '.join(missing)}. Expected safetensors files."
        )


def _check_renderer(
    model: _Model, template: str | None, findings: _Findings
) -> ChatRenderer | None:
    """The renderer of a model, if its tokenizer fits."""
    with findings.collect():
        renderer = ChatRenderer.from_pretrained(str(model.folder), template=template)
        check_compatible(renderer.max_token_id, vocab_size=model.shape.vocab_size)
        return renderer
    return None


def _check_context(shape: ModelShape, recipe: Recipe, findings: _Findings) -> None:
    longest = recipe.prompts.max_prompt_tokens + recipe.sampling.max_tokens
    if 0 < shape.max_positions < longest:
        findings.problems.append(
            f"prompts.max_prompt_tokens + sampling.max_tokens = {longest}, but "
            f"{recipe.policy.model} was made for {shape.max_positions}. Lower one of them."
        )


def _check_rewards(
    reward: object, prompts: Sequence[Prompt], findings: _Findings, *, key: str
) -> list[tuple[ModelShape, Dtype | None]]:
    """Whether a reward can score these prompts; shapes and stated types of its models."""
    problems = style_problems(reward, prompts)
    findings.problems += problems if key == "reward" else [f"{key}: {text}" for text in problems]
    models = []
    for part in single_rewards(reward, key=key):
        if isinstance(getattr(part.settings, "model", None), str):
            mine = [prompt for prompt in prompts if prompt.style in part.styles]
            model = _check_reward_model(part, mine, findings)
            if model is not None:
                models.append((model.shape, getattr(part.settings, "dtype", None)))
        if hasattr(part.settings, "verifier"):
            with findings.collect():
                _show_verifier(part)
    return models


def _check_gold(
    recipe: Recipe, prompts: Sequence[Prompt], findings: _Findings
) -> list[tuple[ModelShape, Dtype | None]]:
    """The gold reward, on the prompts that it is to score."""
    gold = recipe.gold
    if gold is None:
        return []
    _heading("Gold signal")
    evaluations = -(-recipe.training.steps // gold.every)
    if gold.sources:
        prompts = _read_sources(recipe, gold.sources, findings, key="gold.sources")
        count = min(gold.num_prompts or len(prompts), len(prompts))
        print(
            f"{evaluations} evaluations of {count} held-out prompts x {gold.samples_per_prompt}, "
            f"{len(prompts)} prompts to draw from"
        )
    else:
        print(f"{evaluations} evaluations of the step's own rollouts")
    return _check_rewards(gold.reward, prompts, findings, key="gold.reward")


def _check_evaluation(recipe: Recipe, findings: _Findings) -> None:
    """The benchmarks that are to be run during training."""
    if recipe.evaluation is None:
        return
    from grlo.stages.runs import choose_device
    from grlo.stages.train_data import load_evaluation

    _heading("Evaluation")
    evaluations = -(-recipe.training.steps // recipe.evaluation.every)
    with findings.collect():
        device = choose_device(recipe.training.device)
        benchmarks = load_evaluation(recipe, device=device)
        num_answers = 0
        for benchmark in benchmarks:
            sampling, num = benchmark.sampling, len(benchmark.prompts)
            num_answers += num * sampling.num_samples
            print(
                f"{benchmark.name}: {num} problems x {sampling.num_samples}, at most "
                f"{sampling.max_tokens} tokens, from {benchmark.source}"
            )
        print(f"{evaluations} evaluations of {num_answers:,} answers each")


def _show_verifier(part: SingleReward) -> None:
    """What a verifier runs on, such as the sandbox of programs."""
    verifier: Any = part.settings
    verifier = verifier.verifier.build(context=BuildContext(device="cpu", seed=0))
    facts = registry.describe(verifier)
    registry.close(verifier)
    if facts:
        _heading(f"What grades ({part.key})")
        _show_facts(facts)


def _show_facts(facts: Mapping[str, object], indent: str = "") -> None:
    for name, fact in facts.items():
        if isinstance(fact, Mapping) and all(value is True for value in fact.values()):
            print(f"{indent}{name}: {', '.join(map(str, fact))}")
        elif isinstance(fact, Mapping):
            print(f"{indent}{name}:")
            _show_facts(fact, indent + "  ")
        elif isinstance(fact, (list, tuple)):
            print(f"{indent}{name}:")
            for item in fact:
                print(f"{indent}  - {item}")
        else:
            print(f"{indent}{name}: {fact}")


def _check_reward_model(
    part: SingleReward, prompts: Sequence[Prompt], findings: _Findings
) -> _Model | None:
    """Whether a reward model is one, and what it would read."""
    settings: Any = part.settings
    revision = getattr(settings, "revision", None)
    model = _find_model(part.key, settings.model, revision, findings)
    if model is None:
        return None
    if model.shape.num_labels != 1:
        found = f"{model.shape.num_labels} labels" if model.shape.num_labels else "no scalar head"
        findings.problems.append(
            f"{part.key}: {model.name} has {found}; expected a sequence-classification model with "
            "one label."
        )
    renderer = _check_renderer(model, getattr(settings, "template", None), findings)
    if renderer is not None:
        with findings.collect():
            messages = prompts[0].messages if prompts else (Message("user", "Hello!"),)
            turns = (*messages, Message("assistant", SAMPLE_ANSWER))
            where = "" if part.key == "reward" else f" of {part.key}"
            _heading(f"What the reward model{where} reads")
            _show_tokens(renderer, renderer.encode_conversation(turns))
    return model


def _check_critic(
    recipe: Recipe, policy: _Model | None, renderer: ChatRenderer | None, findings: _Findings
) -> _Model | None:
    """The critic reads the policy's tokens, so its vocabulary has to be the policy's."""
    if not getattr(recipe.algorithm, "needs_critic", False) or recipe.critic.share_trunk:
        return None
    name = recipe.critic.model
    if name is None:
        return policy
    model = _find_model("critic", name, None, findings)
    if model is None:
        return None
    if model.shape.num_labels > 1:
        findings.problems.append(
            f"critic: {name} has {model.shape.num_labels} labels; a value function has one."
        )
    if renderer is not None:
        with findings.collect():
            _check_same_tokens(model, renderer)
    return model


def _check_same_tokens(model: _Model, renderer: ChatRenderer) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model.folder))
    except (OSError, ValueError):
        check_compatible(renderer.max_token_id, vocab_size=model.shape.vocab_size)
        return
    if tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
        raise ModelError(
            f"critic: {model.name} has another vocabulary than the policy, but reads the policy's "
            "tokens. Use a critic of the policy's family, or leave critic.model out to start from "
            "the policy."
        )


# Prompts ------------------------------------------------------------------------------------------


def _check_prompts(
    recipe: Recipe, renderer: ChatRenderer | None, findings: _Findings
) -> list[Prompt]:
    """All prompts that can be read, over-long ones left out."""
    settings = recipe.prompts
    _heading("Prompts")
    prompts = _read_sources(recipe, settings.sources, findings, key="prompts")
    if prompts and not (recipe.gold and recipe.gold.sources):  # A suffix may be for held-out ones.
        findings.problems += suffix_problems(prompts, settings.suffixes)
    if not prompts:
        print("none could be read")
        return []
    print(f"{len(prompts)} prompts, {count_duplicates(prompts)} of them repeated")
    for name in ("style", "domain"):
        counts = Counter(getattr(prompt, name) for prompt in prompts)
        print(f"{name}: {', '.join(f'{key} {count}' for key, count in counts.most_common(20))}")
    if renderer is None:
        findings.unchecked.append("lengths of the prompts: there is no renderer")
        return prompts
    with findings.collect():
        lengths = prompt_lengths(prompts, renderer)
        ordered = sorted(lengths)
        quantiles = [ordered[int(share * (len(ordered) - 1))] for share in (0, 0.5, 0.9, 0.99, 1)]
        print("tokens: min {}, median {}, 90 % {}, 99 % {}, max {}".format(*quantiles))
        kept, dropped = split_overlong(
            prompts,
            lengths,
            max_prompt_tokens=settings.max_prompt_tokens,
            overlong=settings.overlong,
        )
        print(f"above {settings.max_prompt_tokens} tokens: {len(dropped)} left out")
        return kept
    return prompts


def _read_sources(
    recipe: Recipe, sources: Sequence[str], findings: _Findings, *, key: str
) -> list[Prompt]:
    """All prompts of the sources that can be read."""
    settings = recipe.prompts
    prompts: list[Prompt] = []
    for source in sources:
        if findings.is_offline and (source.startswith("hub:") or not Path(source).exists()):
            findings.absent(f"{key}: {source} is not on this machine")
            continue
        with findings.collect():
            prompts += read_prompts(
                source, default_style=settings.default_style, suffixes=settings.suffixes
            )
    return prompts


def _show_prompt(renderer: ChatRenderer, messages: Sequence[Message]) -> None:
    _heading("First prompt as the policy reads it")
    _show_tokens(renderer, renderer.encode(messages))
    stops = renderer.stop_ids
    print("stops at: " + ", ".join(f"{_token_text(renderer, token)} ({token})" for token in stops))


def _show_tokens(renderer: ChatRenderer, tokens: Sequence[int]) -> None:
    """Text and ids, one `piece/id` per token; `*` marks stop tokens."""
    half = MAX_TOKENS_SHOWN // 2
    parts = [
        f"{_token_text(renderer, token)}/{token}{'*' * (token in renderer.stop_ids)}"
        for token in tokens
    ]
    if len(parts) > MAX_TOKENS_SHOWN:
        cut = [f"... {len(parts) - 2 * half} more ..."]
        parts = parts[:half] + cut + parts[-half:]
    lines = str(renderer.tokenizer.decode(list(tokens), skip_special_tokens=False)).split("\n")
    if len(lines) > MAX_LINES_SHOWN:
        half = MAX_LINES_SHOWN // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} more lines ...", *lines[-half:]]
    text = "\n".join(lines)
    print(f"{text}\n{len(tokens)} tokens (* ends an answer): {' '.join(parts)}")


def _token_text(renderer: ChatRenderer, token: int) -> str:
    text = renderer.tokenizer.decode([token], skip_special_tokens=False)
    assert isinstance(text, str)
    # Visible white space, and no quotes around it.
    return json.dumps(text, ensure_ascii=False)[1:-1].replace(" ", "␣")


# The run ------------------------------------------------------------------------------------------


def _show_schedule(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    _heading("Run")
    sampling, training = recipe.sampling, recipe.training
    updates = training.steps * training.num_epochs * training.num_minibatches
    responses = training.steps * sampling.prompts_per_step * sampling.samples_per_prompt
    print(f"{training.steps} steps, {updates} updates, {responses} responses")
    drawn = responses * sampling.max_draws
    if drawn > responses:
        print(f"dynamic sampling draws up to {drawn} responses for them")
    if prompts:
        epochs = training.steps * sampling.prompts_per_step / len(prompts)
        most = f" to {epochs * sampling.max_draws:.3g}" if drawn > responses else ""
        print(f"each prompt is seen {epochs:.3g}{most} times")
    print(f"at most {drawn * sampling.max_tokens:.3g} tokens are generated")


def _show_costs(
    recipe: Recipe,
    policy: ModelShape,
    *,
    critic: ModelShape | None,
    rewards: Sequence[tuple[ModelShape, Dtype | None]],
    gold: Sequence[tuple[ModelShape, Dtype | None]],
    findings: _Findings,
    num_devices: int,
) -> None:
    """Floating-point operations at full length, and memory per component."""
    sampling = recipe.sampling
    responses = sampling.prompts_per_step * sampling.samples_per_prompt * recipe.training.steps
    length = recipe.prompts.max_prompt_tokens + sampling.max_tokens
    # A pass back costs two forward; with gradient checkpointing the forward pass is done twice.
    # Selective checkpointing does no product twice.
    training = recipe.training.num_epochs * (3 + (recipe.policy.gradient_checkpointing is True))
    needs_reference = getattr(recipe.algorithm, "needs_reference", False)
    # The policy draws, is read again before the update, and is trained; all draws are scored.
    passes = [
        (policy, sampling.max_draws + 1 + needs_reference + training),
        (critic, 1 + training),
        *((shape, sampling.max_draws) for shape, _ in rewards),
    ]
    flops = sum(
        times * forward_flops(shape, num_tokens=length)
        for shape, times in passes
        if shape is not None
    )
    print(f"at most {responses * flops:.2g} floating-point operations")
    _heading("Memory (estimates)")
    with findings.collect():
        _show_memory(
            recipe,
            policy,
            critic=critic,
            rewards=[*rewards, *gold],
            findings=findings,
            num_devices=num_devices,
        )


def _show_memory(
    recipe: Recipe,
    policy: ModelShape,
    *,
    critic: ModelShape | None,
    rewards: list[tuple[ModelShape, Dtype | None]],
    findings: _Findings,
    num_devices: int,
) -> None:
    """Memory per component and phase, and the plan for the device if that is here."""
    from grlo.stages.memory import plan_with
    from grlo.stages.runs import choose_device

    plan = None
    if _has_device(recipe.training.device):
        device = choose_device(recipe.training.device)
        plan = plan_with(
            recipe,
            device=device,
            policy=policy,
            critic=critic,
            rewards=rewards,
            num_devices=num_devices,
        )
        recipe, items = plan.applied(recipe), plan.items
    else:
        findings.unchecked.append(f"memory of {recipe.training.device}: it is not on this machine")
        if not recipe.training.micro_batch_tokens:
            training = replace(recipe.training, micro_batch_tokens=MOST_TOKENS)
            recipe = replace(recipe, training=training)
        if num_devices > 1 and recipe.training.sharding == "auto":
            has_adapters = recipe.policy.lora is not None or recipe.critic.lora is not None
            sharding = "ddp" if has_adapters else "fsdp"
            recipe = replace(recipe, training=replace(recipe.training, sharding=sharding))
        num_rows = getattr(recipe.engine, "max_rows", 0) or 1
        items = estimate_memory(
            recipe,
            policy=policy,
            critic=critic,
            rewards=rewards,
            num_sequences=num_rows,
            num_devices=num_devices,
        )
    width = max(len(item.component) for item in items)
    for item in items:
        phases = "always" if item.phases == PHASES else ", ".join(item.phases)
        print(f"{item.component:{width}}  {_size(item.num_bytes):>9}  {phases}")
    for phase, num_bytes in phase_bytes(items).items():
        print(f"{'in all':{width}}  {_size(num_bytes):>9}  {phase}")
    print(f"{'peak':{width}}  {_size(peak_bytes(items)):>9}")
    tokens, offload = recipe.training.micro_batch_tokens, recipe.training.offload
    print(f"micro-batches of {tokens} tokens; in the CPU's memory: {', '.join(offload) or 'none'}")
    if num_devices > 1:
        print(f"{num_devices} devices, each with so much: {_SHARDINGS[recipe.training.sharding]}")
    if plan is not None:
        if num_devices > 1 and not plan.fits:
            findings.problems.append(
                f"--devices {num_devices}: each would need {_size(plan.peak_bytes)}, and about "
                f"{_size(USABLE_SHARE * plan.device_bytes)} can be used. Take more devices, or "
                "what the section Memory names: the largest components first."
            )
        verdict = "fits" if plan.fits else "may not fit"
        usable = USABLE_SHARE * plan.device_bytes
        print(f"{verdict}: of {_size(plan.device_bytes)} about {_size(usable)} can be used")
    if not getattr(recipe.engine, "max_rows", 0):
        print("The engine decodes as many rows at a time as fit into the memory that is free.")
        if recipe.training.overlap:
            print("With overlap the update needs memory at the same time: set engine.max_rows.")


def _check_software(recipe: Recipe, findings: _Findings, *, num_devices: int) -> None:
    """Optional packages and devices that the recipe asks for."""
    for name in recipe.trackers.names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            findings.problems.append(f"trackers.names: unknown {name!r}; expected any of {known}.")
        elif importlib.util.find_spec(name) is None:
            findings.problems.append(
                f"trackers.names: {name} is not installed. Install it with: "
                f"pip install 'grlo[{name}]'"
            )
    needs_lora = recipe.policy.lora is not None or recipe.critic.lora is not None
    if needs_lora and importlib.util.find_spec("peft") is None:
        findings.problems.append(
            "policy.lora: peft is not installed. Install it with: pip install 'grlo[lora]'"
        )
    optimizers = {recipe.optimizer.name, recipe.critic.optimizer.name}
    if "adamw_8bit" in optimizers and importlib.util.find_spec("bitsandbytes") is None:
        findings.problems.append(
            "optimizer.name: bitsandbytes is not installed. Install it with: "
            "pip install 'grlo[lowbit]'"
        )
    check_training = getattr(recipe.engine, "check_training", None)
    if check_training is not None:
        with findings.collect():
            # Engines of the user's own may know of one device only.
            check_training(**({"num_ranks": num_devices} if num_devices > 1 else {}))
    _check_device(recipe.training.device, findings, key="training.device")
    _check_count(recipe.training.device, num_devices, findings)
    if isinstance(own := getattr(recipe.engine, "device", None), str):
        _check_device(own, findings, key="engine.device")


def _has_device(device: str) -> bool:
    import torch

    index = device.partition(":")[2] or "0"
    is_gpu = index.isdigit() and int(index) < torch.cuda.device_count()
    return device in ("auto", "cpu") or is_gpu


def _check_count(device: str, num_devices: int, findings: _Findings) -> None:
    """Whether there are as many GPUs as the run is to have; processes on a CPU need none."""
    import torch

    from grlo.stages.runs import choose_device

    num_here = torch.cuda.device_count()
    if num_devices > 1 and choose_device(device) != "cpu" and num_devices > num_here:
        findings.absent(f"--devices {num_devices}: this machine has {num_here} GPUs")


def _check_device(device: str, findings: _Findings, *, key: str) -> None:
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        findings.problems.append(f"{key}: found {device!r}, expected auto, cpu, cuda or cuda:N.")
        return
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        findings.absent(f"{key}: {device!r} is not on this machine")


def _check_disk(
    run_dir: Path,
    recipe: Recipe,
    policy: ModelShape,
    critic: ModelShape | None,
    findings: _Findings,
) -> None:
    existing = run_dir
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        findings.problems.append(f"--run {run_dir}: {existing} is not a folder that can be written")
        return
    items = estimate_memory(recipe, policy=policy, critic=critic)
    checkpoint = sum(_stored_bytes(item) for item in items)
    count = recipe.checkpoint.keep_last + recipe.checkpoint.keep_best + 1
    needed, free = count * checkpoint, shutil.disk_usage(existing).free
    print(f"disk: {count} checkpoints of {_size(checkpoint)}, {_size(free)} free")
    if needed > free:
        findings.problems.append(
            f"--run {run_dir}: {count} checkpoints (checkpoint.keep_last, the best, and the one "
            f"being written) take {_size(needed)}, but {_size(free)} are free. Keep fewer, or use "
            "another disk."
        )


def _check_run(run_dir: Path, recipe: Recipe, findings: _Findings) -> None:
    """A run that is there already is resumed, by the recipe that it was started with."""
    file = RunDir(run_dir).recipe_file
    if not file.is_file():
        if run_dir.is_dir() and any(run_dir.iterdir()):
            findings.problems.append(
                f"--run {run_dir} holds something that is no run. Choose a new or empty folder."
            )
        return
    with findings.collect():
        try:
            stored = load_dumped(json.loads(file.read_text(encoding="utf-8"))["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is not the recipe of a run: {error!r}") from error
        # What a run may go on without.
        training = replace(stored.training, sharding=recipe.training.sharding)
        stored = replace(stored, prices=recipe.prices, training=training)
        changes = differences(stored, recipe)
        if changes:
            raise CheckpointError(
                f"--run {run_dir} holds a run of another recipe; choose another folder, or undo:\n"
                + listed(changes)
            )
        print(f"{run_dir} holds a run of this recipe, which will be resumed")


def _try_step(
    recipe: Recipe,
    renderer: ChatRenderer,
    prompts: list[Prompt],
    findings: _Findings,
    *,
    num_devices: int,
) -> None:
    """Loads the models and makes one small step of training on one device; nothing is written."""
    import torch
    from safetensors import SafetensorError

    from grlo.stages.memory import plan_for
    from grlo.stages.runs import choose_device
    from grlo.stages.train_data import load_gold_prompts
    from grlo.stages.train_parts import build_gold, build_trainer

    sampling = replace(
        recipe.sampling,
        prompts_per_step=min(recipe.sampling.prompts_per_step, TRIAL_PROMPTS),
        samples_per_prompt=min(recipe.sampling.samples_per_prompt, TRIAL_SAMPLES),
        max_tokens=min(recipe.sampling.max_tokens, TRIAL_TOKENS),
    )
    buffer = min(recipe.shaping.overlong_buffer, sampling.max_tokens)
    recipe = replace(
        recipe, sampling=sampling, shaping=replace(recipe.shaping, overlong_buffer=buffer)
    )
    longest = sorted(prompts, key=lambda prompt: sum(len(m.content) for m in prompt.messages))
    device = choose_device(recipe.training.device)
    _heading("One small step with the longest prompts")
    with findings.collect():
        try:
            plan = plan_for(recipe, device=device, num_devices=num_devices)
            if plan.sharding == "fsdp" and num_devices > 1:
                findings.unchecked.append(
                    f"one step with the real weights: their shards take {num_devices} devices"
                )
                return
            recipe = plan.applied(recipe)
            trainer = build_trainer(
                recipe,
                renderer=renderer,
                prompts=longest[-TRIAL_PROMPTS:],
                device=device,
            )
            try:
                _probe_reward(trainer.reward, prompts[0], findings, key="reward")
                if recipe.gold is not None:
                    held_out = load_gold_prompts(recipe, renderer, training=prompts)
                    gold = build_gold(recipe, trainer, prompts=held_out, device=device)
                    assert gold is not None
                    example = (held_out or prompts)[0]
                    _probe_reward(gold.reward, example, findings, key="gold.reward")
                # Not as the last step of a run: with overlap that one draws nothing ahead.
                result = next(trainer.steps(start=1, stop=2))
            finally:
                trainer.engine.close()
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"out of memory in a step of {sampling.prompts_per_step} prompts: {error}. Train "
                "adapters (policy.lora, critic.lora), or lower training.micro_batch_tokens."
            ) from error
        except SafetensorError as error:
            raise ModelError(
                f"the weights of a policy, critic or reward model are damaged: {error}. Fetch or "
                "copy them again."
            ) from error
        for name, value in sorted(result.metrics.items()):
            print(f"{name:32} {value:.5g}")


def _probe_reward(reward: Reward, prompt: Prompt, findings: _Findings, *, key: str) -> None:
    """Scores of an answer and of none, for people to look at."""
    texts = {"an empty answer": "", repr(SAMPLE_ANSWER): SAMPLE_ANSWER}
    completion = Completion(tokens=(), logprobs=(), finish_reason="stop")
    rollouts = [
        Rollout(prompt=prompt, group=0, prompt_tokens=(), completion=completion, text=text)
        for text in texts.values()
    ]
    for name, score in zip(texts, reward.score(rollouts), strict=True):
        print(f"{key}: score of {name}: {score.value}")
        if score.value is None:
            findings.problems.append(f"{key}: {name} could not be scored: {score.note}")


def _stored_bytes(item: MemoryItem) -> int:
    """Weights of policy and critic and the optimizers' state are what a checkpoint holds."""
    is_stored = item.component.endswith(" weights") or " optimizer (" in item.component
    return item.num_bytes if is_stored else 0


def _heading(text: str) -> None:
    print(f"\n== {text} ==")


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
