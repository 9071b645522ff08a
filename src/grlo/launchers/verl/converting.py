"""verl's checkpoints as ordinary Hugging Face models, by verl's own merger of shards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from grlo.errors import CheckpointError
from grlo.rollout import ChatRenderer
from grlo.rundir import PARTIAL

_ADAPTER = "lora_adapter"
_SHOWN = 2000
"""Characters of the merger's last words that an error shows."""


def convert(actor: Path, *, out: Path, renderer: ChatRenderer) -> None:
    """Writes the policy of a checkpoint, adapters merged in, with its tokenizer and stop tokens.

    The merger rounds weights to bfloat16, which is what vLLM draws with.

    Args:
        actor: Folder `global_step_*/actor`.
        out: Folder of the model; it does not exist before, and is whole afterwards.
        renderer: Of the policy.

    Raises:
        CheckpointError: The merger fails; nothing is left at `out`.
    """
    from transformers import GenerationConfig

    temporary = out.with_name(out.name + PARTIAL)
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(actor), "--target_dir", str(temporary)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CheckpointError(
                f"verl's merger could not convert {actor} (exit code {done.returncode}):\n"
                f"{(done.stdout + done.stderr)[-_SHOWN:]}"
            )
        if (temporary / _ADAPTER).is_dir():
            _merge_adapter(temporary)
        GenerationConfig(
            eos_token_id=list(renderer.stop_ids), pad_token_id=renderer.pad_id
        ).save_pretrained(temporary)
        renderer.save_tokenizer(temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _merge_adapter(folder: Path) -> None:
    """The merger leaves adapters beside their base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    merged = PeftModel.from_pretrained(base, folder / _ADAPTER).merge_and_unload()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    shutil.rmtree(folder / _ADAPTER)
    merged.save_pretrained(folder)
