"""Prompts as rows of the Parquet files that verl reads, and back.

A file of training holds the prompts of every step, one after the other, in the order in which
`grlo train` draws them: verl reads it once, from front to back, so that its steps see what ours
would, nothing is left over at the end of an epoch, and the place of a row says its step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grlo.errors import MissingExtraError
from grlo.prompts.sampler import PromptSampler
from grlo.rundir import RolloutKind
from grlo.types import Message, Prompt

_ROWS_AT_A_TIME = 8192


def training_rows(
    prompts: Sequence[Prompt], *, steps: int, prompts_per_step: int, seed: int
) -> Iterator[dict[str, object]]:
    """The rows of all steps of a run."""
    sampler = PromptSampler(prompts, prompts_per_step=prompts_per_step, seed=seed)
    index = 0
    for step in range(1, steps + 1):
        for prompt in sampler.batch(step):
            yield row_of(prompt, split="rollouts", index=index)
            index += 1


def gold_rows(prompts: Sequence[Prompt]) -> Iterator[dict[str, object]]:
    """The held-out prompts of a gold signal."""
    return (row_of(prompt, split="gold", index=index) for index, prompt in enumerate(prompts))


def row_of(prompt: Prompt, *, split: RolloutKind, index: int) -> dict[str, object]:
    """A row in the form of verl's `RLHFDataset`.

    `extra_info` has the prompt whole as JSON, since columns of Parquet have one type each and what
    verifiers read does not.
    """
    return {
        # verl groups its own numbers by this; ours are never routed by it.
        "data_source": prompt.domain,
        "prompt": [asdict(message) for message in prompt.messages],
        "ability": prompt.domain,
        "reward_model": {"style": prompt.style, "ground_truth": prompt.reference or ""},
        "extra_info": {
            "split": split,
            "index": index,
            "id": prompt.id,
            "source": prompt.source,
            "prompt": json.dumps(asdict(prompt), ensure_ascii=False),
        },
    }


def prompt_of(extra_info: Mapping[str, Any]) -> Prompt:
    """The prompt of a row."""
    fields = json.loads(extra_info["prompt"])
    messages = tuple(Message(**message) for message in fields.pop("messages"))
    return Prompt(messages=messages, **fields)


def write_parquet(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Writes rows, some thousands at a time; how many there were.

    Raises:
        MissingExtraError: Parquet needs the extra `verl` or `data`.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", extra="verl") from error
    text = pyarrow.string()
    schema = pyarrow.schema(
        [
            ("data_source", text),
            ("prompt", pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))),
            ("ability", text),
            ("reward_model", pyarrow.struct([("style", text), ("ground_truth", text)])),
            (
                "extra_info",
                pyarrow.struct(
                    [
                        ("split", text),
                        ("index", pyarrow.int64()),
                        ("id", text),
                        ("source", text),
                        ("prompt", text),
                    ]
                ),
            ),
        ]
    )
    num_rows = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[Mapping[str, object]] = []
        for row in rows:
            waiting.append(row)
            num_rows += 1
            if len(waiting) == _ROWS_AT_A_TIME:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
                waiting = []
        if waiting:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
    return num_rows
