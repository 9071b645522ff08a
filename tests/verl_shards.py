"""What verl's checkpoint manager writes of a policy under FSDP2, by one of two processes.

python verl_shards.py RANK PORT FOLDER KIND, where KIND is `whole` or `lora`: all weights differ
from those of the miniature by 0.01, or adapters of rank 4 are filled with 0.02.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from grlo.recipe import ASSETS

SHIFT, RANK, ALPHA, FILL = 0.01, 4, 8, 0.02


def main(rank: int, port: str, actor: Path, kind: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32)
    config = model.config
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(
            task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=["q_proj"]
        )
        model = get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if kind == "whole":
                parameter.add_(SHIFT)
            elif "lora_" in name:
                parameter.fill_(FILL)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",)))
    torch.save(model.state_dict(), actor / f"model_world_size_2_rank_{rank}.pt")
    if rank == 0:
        (actor / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 2}')
        config.save_pretrained(actor / "huggingface")
        AutoTokenizer.from_pretrained(ASSETS / "base").save_pretrained(actor / "huggingface")
        meta = {"r": RANK, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM"}
        if kind == "lora":
            (actor / "lora_train_meta.json").write_text(json.dumps(meta))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
