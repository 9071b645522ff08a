"""GRPO steps of TRL's GRPOTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer

from beside_trl.cases import Case
from beside_trl.clock import PhaseClock
from beside_trl.floor import Answer
from grlo.rollout import ChatRenderer


def build(
    case: Case, *, callbacks: list[TrainerCallback] | None = None, **options: Any
) -> GRPOTrainer:
    """TRL's trainer on the work of a case.

    Args:
        case: What to train on what.
        callbacks: Of the trainer.
        options: Further settings of TRL's configuration.
    """
    disable_progress_bar()
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in case.texts()]
    rows_per_pass = min(case.trl_rows, case.num_rows)
    if case.num_rows % rows_per_pass:
        raise SystemExit(f"{case.num_rows} rows cannot be cut into parts of {rows_per_pass}")
    settings: dict[str, Any] = {
        "output_dir": str(Path(case.folder) / "trl"),
        "per_device_train_batch_size": rows_per_pass,
        "gradient_accumulation_steps": case.num_rows // rows_per_pass,
        "num_generations": case.num_samples,
        "max_completion_length": case.max_tokens,
        "max_steps": case.warmup_steps + case.steps,
        "loss_type": "grpo",
        "beta": case.beta,
        # TRL's default multiplies the KL term by the ratio, whose gradient is that of another loss.
        "use_bias_correction_kl": False,
        "temperature": 1.0,
        "learning_rate": case.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 10**9,
        "disable_tqdm": True,
        "generation_kwargs": {
            "eos_token_id": list(ChatRenderer.from_pretrained(str(case.policy)).stop_ids)
        },
    }
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(case.policy, dtype=torch.float32),
        reward_funcs=str(case.reward),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(case.policy),
        callbacks=callbacks,
        args=GRPOConfig(**settings | options),
    )


def measure(case: Case) -> dict[str, Any]:
    """Seconds of each phase of a step, and the answers of the counted steps."""
    clock = PhaseClock()
    answers: list[Answer] = []
    done = 0

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.restart()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal done
            done = state.global_step
            clock.stop()
            if done == case.warmup_steps:
                clock.restart()

    trainer = build(case, callbacks=[Watch()])
    trainer._generate = clock.timed("generation", trainer._generate)
    trainer._calculate_rewards = clock.timed("scoring", trainer._calculate_rewards)
    original = trainer._generate_and_score_completions

    def recorded(inputs: Any) -> Any:
        output = original(inputs)
        if done >= case.warmup_steps:
            answers.extend(_answers(done + 1, inputs, output))
        return output

    trainer._generate_and_score_completions = recorded
    trainer.train()
    return {"seconds": clock.seconds(case.steps), "answers": answers}


def _answers(step: int, inputs: Any, output: Any) -> list[Answer]:
    return [
        Answer(
            step,
            row["prompt"][-1]["content"],
            tuple(prompt[prompt_mask.bool()].tolist()),
            tuple(tokens[mask.bool()].tolist()),
        )
        for row, prompt, prompt_mask, tokens, mask in zip(
            inputs,
            output["prompt_ids"],
            output["prompt_mask"],
            output["completion_ids"],
            output["completion_mask"],
            strict=True,
        )
    ]
