"""The model card of an exported checkpoint, from what its run has recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grlo.evaluation.results import BenchmarkResult
from grlo.ledger import summarize
from grlo.reporting.costs import known_columns, recorded_prices
from grlo.reporting.tables import duration, markdown_table, percent
from grlo.rundir import Row, RunDir

_METRICS: Mapping[str, str] = {
    "reward/mean": "reward, mean",
    "gold/mean": "gold reward, mean",
    "response/length_mean": "length of answers, tokens",
    "response/truncated": "share of answers cut by the limit",
    "policy/kl": "KL to the start, nats",
    "policy/entropy": "entropy, nats",
    "sft/loss": "loss, nats per token",
    "held_out/loss": "held-out loss, nats per token",
}


def model_card(
    run: RunDir, *, name: str, step: int, evaluations: Mapping[str, Sequence[BenchmarkResult]]
) -> str:
    """The card as Markdown with the hub's front matter. Nothing is claimed that no file says.

    Args:
        run: The run.
        name: Of the exported model.
        step: Of the checkpoint.
        evaluations: By label the results to show, in order.

    Raises:
        DataError: A file of the run is damaged.
    """
    record = run.record()
    recipe = record.get("recipe", {})
    base = str(recipe.get("policy", {}).get("model", ""))
    rows = [row for row in run.metrics() if row["step"] <= step]
    parts = [
        *_front_matter(base),
        f"# {name}",
        "",
        _origin(recipe, record, base=base, step=step),
        "",
        *_section("How it was trained", ["setting", "value"], _settings(recipe)),
        *_data(record.get("data", []), record),
        *_section(
            "What changed in training", ["", "first step", f"step {step}"], list(_changes(rows))
        ),
        *_evaluations(evaluations),
        *_cost(run, step),
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        'messages = [{"role": "user", "content": "..."}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**inputs, max_new_tokens=512)",
        "```",
        "",
        "The chat template and the stop tokens are those of training.",
        "",
        "## Limits",
        "",
        "Trained to please a reward, which is not the same as being right, harmless or honest: no "
        "safety training or red-teaming is part of this recipe. Scores above are of one protocol "
        "and comparable to others only where that is the same.",
    ]
    return "\n".join(parts).rstrip() + "\n"


def _front_matter(base: str) -> Iterator[str]:
    yield "---"
    yield "library_name: transformers"
    yield "pipeline_tag: text-generation"
    if base and not Path(base).is_absolute():
        yield f"base_model: {base}"
    yield "tags: [grlo]"
    yield "---"
    yield ""


def _origin(recipe: Mapping[str, Any], record: Mapping[str, Any], *, base: str, step: int) -> str:
    versions = record.get("versions", {})
    shown = Path(base).name if Path(base).is_absolute() else base
    how = "supervised fine-tuning" if "data" in recipe else "reinforcement learning"
    commit = record.get("commit")
    return (
        f"Made from `{shown}` by {how} with grlo {versions.get('grlo', '?')}"
        + (f" (commit {str(commit)[:12]})" if commit else "")
        + f": {step} of {recipe.get('training', {}).get('steps') or 'its'} steps, seed "
        f"{recipe.get('seed', 0)}."
    )


def _settings(recipe: Mapping[str, Any]) -> list[list[str]]:
    """The settings that decide what a model becomes."""
    wanted = {
        "algorithm": ("algorithm",),
        "reward": ("reward",),
        "sampling": ("sampling",),
        "optimizer": ("optimizer",),
        "lora": ("policy", "lora"),
        "shaping": ("shaping",),
        "budget": ("budget",),
    }
    rows = []
    for label, keys in wanted.items():
        value: Any = recipe
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and (text := _short(value)):
            rows.append([label, text])
    return rows


def _short(table: Mapping[str, Any]) -> str:
    """The entries of a table that say something, on one line."""
    found = [
        f"{key} {_value(value)}"
        for key, value in table.items()
        if value not in (None, "", 0, 0.0, False, [], {}) and not isinstance(value, Mapping)
    ]
    return ", ".join(found)


def _value(value: object) -> str:
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(records: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    yield ""
    for own in records:
        changed = "" if own["matches"] else " (changed since it was built)"
        yield (
            f"- {Path(own['file']).name}: {own['rows']} rows by {own['made_by']}{changed}, SHA-256 "
            f"of its manifest `{own['manifest_sha256']}`"
        )
    yield f"- SHA-256 of all rows that were trained on: `{record.get('prompt_hash', '?')}`"
    yield ""


def _changes(rows: Sequence[Row]) -> Iterator[list[str]]:
    for name, label in _METRICS.items():
        values = [float(row[name]) for row in rows if name in row]
        if values:
            yield [label, f"{values[0]:.4g}", f"{values[-1]:.4g}"]


def _evaluations(evaluations: Mapping[str, Sequence[BenchmarkResult]]) -> Iterator[str]:
    for label, results in evaluations.items():
        rows = []
        for result in results:
            score = result.score
            factor = 100 if result.unit == "share" else 1
            shown = "-" if score is None else f"{factor * score.value:.2f}"
            interval = (
                "-" if score is None else f"{factor * score.low:.2f} to {factor * score.high:.2f}"
            )
            unit = "%" if result.unit == "share" else result.unit
            samples = result.identity.sampling.num_samples
            rows.append([result.name, shown, interval, unit, f"{result.num_problems} x {samples}"])
        columns = ["benchmark", "score", "95 %", "unit", "problems x answers"]
        yield from _section(f"Scores: {label}", columns, rows)


def _cost(run: RunDir, step: int) -> Iterator[str]:
    totals = summarize([entry for entry in run.ledger() if entry.step <= step], peaks=run.peaks())
    further = known_columns(totals, recorded_prices(run.record()))
    rows = [
        [
            total.phase,
            duration(total.seconds),
            f"{total.device_hours:.4f}",
            percent(total.share),
            f"{total.tokens:,}",
            f"{total.flops:.3g}",
            *(column(total) for column in further.values()),
        ]
        for total in sorted(totals, key=lambda total: -total.device_hours)
    ]
    columns = ["phase", "time", "device-hours", "%", "tokens", "FLOPs", *further]
    yield from _section("Cost", columns, rows)


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A heading and a table; nothing where there are no rows."""
    if rows:
        yield f"## {title}"
        yield ""
        yield from markdown_table(columns, rows)
