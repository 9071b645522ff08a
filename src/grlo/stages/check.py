"""`grlo check`: shows what a recipe will do, and finds what would fail hours later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grlo.errors import RecipeError
from grlo.recipe import format_recipe, load_recipe
from grlo.settings import Recipe
from grlo.stages.check_costs import show_costs, show_schedule
from grlo.stages.check_findings import Findings, heading
from grlo.stages.check_machine import check_disk, check_run, check_software
from grlo.stages.check_models import check_context, check_critic, check_renderer, find_model
from grlo.stages.check_prompts import check_prompts, show_prompt
from grlo.stages.check_rewards import check_gold, check_rewards
from grlo.stages.check_step import try_step
from grlo.training.distributed.problems import device_problems
from grlo.types import Message


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
    findings = Findings(is_offline=not weights)
    findings.problems += device_problems(recipe, num_devices=num_devices)
    heading("Recipe")
    print(format_recipe(recipe))
    policy = find_model("policy", recipe.policy.model, recipe.policy.revision, findings)
    renderer = None
    if policy is not None:
        renderer = check_renderer(policy, recipe.policy.template, findings)
        check_context(policy.shape, recipe, findings)
        if policy.shape.num_labels:
            findings.problems.append(
                f"policy: {policy.name} is a classifier; expected a causal language model."
            )
    prompts = check_prompts(recipe, renderer, findings)
    if renderer is not None:
        example = prompts[0].messages if prompts else (Message("user", "Hello!"),)
        with findings.collect():
            show_prompt(renderer, example)
    rewards = check_rewards(recipe.reward, prompts, findings, key="reward")
    gold_rewards = check_gold(recipe, prompts, findings)
    _check_evaluation(recipe, findings)
    critic = check_critic(recipe, policy, renderer, findings)
    check_software(recipe, findings, num_devices=num_devices)
    show_schedule(recipe, prompts)
    if policy is not None:
        critic_shape = critic.shape if critic else None
        show_costs(
            recipe,
            policy.shape,
            critic=critic_shape,
            rewards=rewards,
            gold=gold_rewards,
            findings=findings,
            num_devices=num_devices,
        )
        if run_dir is not None:
            check_disk(run_dir, recipe, policy.shape, critic_shape, findings)
    elif run_dir is not None:
        findings.unchecked.append(f"disk space of {run_dir}: the policy's size is not known")
    if run_dir is not None:
        check_run(run_dir, recipe, findings)
    if not weights:
        findings.unchecked.append("one step with the real weights: --no-weights")
    elif findings.problems or renderer is None:
        findings.unchecked.append("one step with the real weights: mend the problems first")
    else:
        try_step(recipe, renderer, prompts, findings, num_devices=num_devices)
    _conclude(findings)


def _check_evaluation(recipe: Recipe, findings: Findings) -> None:
    """The benchmarks that are to be run during training."""
    if recipe.evaluation is None:
        return
    from grlo.stages.runs import choose_device
    from grlo.stages.train_data import load_evaluation

    heading("Evaluation")
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


def _conclude(findings: Findings) -> None:
    heading("Result")
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
