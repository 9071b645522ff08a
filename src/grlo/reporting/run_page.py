"""The page of a training run: one file, drawn from what the run directory holds so far."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from grlo.ledger import summarize
from grlo.reporting.costs import known_columns, recorded_prices
from grlo.reporting.figures import COLORS, Points, line_chart, scatter_chart, stacked_chart
from grlo.reporting.html import grid, heading, html_table, notice, page, paragraph, quoted
from grlo.reporting.look import looks
from grlo.reporting.tables import duration, percent
from grlo.reporting.text import visible
from grlo.rundir import Row, RunDir

Item = TypeVar("Item")

MAX_POINTS = 600
"""Of a line; longer runs are drawn as means of neighbouring steps."""
MAX_DOTS = 2000
MAX_CHARACTERS = 6000
"""Of a prompt or answer that is shown."""

# Title -> what the lines are called -> metric.
_ANSWERS: Mapping[str, Mapping[str, str]] = {
    "length of answers, tokens": {
        "median": "response/length_p50",
        "95 %": "response/length_p95",
        "mean": "response/length_mean",
    },
    "shares of answers": {
        "cut by the limit": "response/truncated",
        "unscored": "reward/unscored",
        "clipped score": "reward/clipped",
    },
    "correlation of score and length": {
        "Pearson": "watch/score_length_correlation",
        "Spearman": "watch/score_length_rank_correlation",
    },
    "repetition and variety": {
        "repeated 4-grams of an answer": "watch/repetition",
        "distinct 1-grams": "watch/distinct_1",
        "distinct 2-grams": "watch/distinct_2",
    },
    "groups without spread, share": {"": "group/zero_spread"},
}
_TRAINING: Mapping[str, Mapping[str, str]] = {
    "loss of demonstrations, nats per token": {
        "training": "sft/loss",
        "held out": "held_out/loss",
    },
    "KL, nats": {"to the start": "policy/kl", "of the update": "policy/approx_kl"},
    "entropy, nats": {"": "policy/entropy"},
    "gradient norm": {"policy": "policy/grad_norm", "critic": "critic/grad_norm"},
    "clipped tokens, share": {"policy": "policy/clip_fraction", "critic": "critic/clip_fraction"},
    "loss of the critic": {"": "critic/loss"},
    "variance of returns that the critic explains": {"": "critic/explained_variance"},
    "gap of log-probabilities, engine to learner, nats": {
        "mean": "engine/logprob_gap",
        "largest": "engine/logprob_gap_max",
    },
    "learning rate": {"": "policy/learning_rate"},
}
_SPEED: Mapping[str, Mapping[str, str]] = {
    "tokens per second": {
        "generation": "tokens_per_second/generate",
        "whole step": "tokens_per_second/total",
    },
}


def run_page(run: RunDir) -> str:
    """The page as HTML. A plot whose metrics the run does not have is left out.

    Raises:
        DataError: A file of the run is damaged.
    """
    rows, steps = run.metrics(), run.rollout_steps()
    record = run.record()
    sections = [_summary(record.get("recipe", {}), rows), *_data(record.get("data", []))]
    if rows:
        sections += [heading("Where to look"), *_look_panel(rows)]
    samples = run.rollouts(steps[-1]) if steps else []
    figures = {
        "Reward": [*_reward_charts(rows)],
        "Benchmarks": [*_benchmark_charts(rows)],
        "Answers": [*_charts(rows, _ANSWERS), *_length_charts(rows, samples)],
        "Training": [*_charts(rows, _TRAINING)],
        "Time": [*_time_chart(rows), *_charts(rows, _SPEED)],
    }
    for title, charts in figures.items():
        if charts:
            sections += [heading(title), grid(charts)]
    if len(rows) > MAX_POINTS:
        sections.append(paragraph(f"Lines are means of {-(-len(rows) // MAX_POINTS)} steps each."))
    sections += [*_cost_table(run), *_samples(samples, "Answers", "the reward of training")]
    if evaluated := run.rollout_steps(kind="gold"):
        held_out = run.rollouts(evaluated[-1], kind="gold")
        sections += _samples(held_out, "Answers that gold scored", "the gold reward", "--gold")
    return page(f"Run {run.path.name}", sections, wide=True)


def _summary(recipe: Mapping[str, Any], rows: Sequence[Row]) -> str:
    def setting(*keys: str) -> str:
        value: Any = recipe
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return "-" if value is None else str(value)

    done, total = rows[-1]["step"] if rows else 0, setting("training", "steps")
    if "data" in recipe:
        return _sft_summary(setting, rows)
    facts = {
        "policy": setting("policy", "model"),
        "algorithm": setting("algorithm", "name"),
        "reward": " ".join(
            word for word in (setting("reward", "name"), setting("reward", "model")) if word != "-"
        ),
        "steps": f"{done} of {total}",
        "answers per step": f"{setting('sampling', 'prompts_per_step')} prompts x "
        f"{setting('sampling', 'samples_per_prompt')}",
    }
    last = rows[-1] if rows else {}
    if "reward/mean" in last:
        facts["reward of the first and the last step"] = (
            f"{rows[0].get('reward/mean', float('nan')):.3f}, {last['reward/mean']:.3f}"
        )
    if golds := [(row["gold/mean"], row["step"]) for row in rows if "gold/mean" in row]:
        best, step = max(golds, key=lambda pair: (pair[0], -pair[1]))
        facts["gold, best and last"] = f"{best:.3f} (step {step}), {golds[-1][0]:.3f}"
    return html_table(["", ""], [[name, visible(value)] for name, value in facts.items()])


def _data(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Where the rows come from, as far as their builder has told."""
    if records:
        yield heading("Data")
        columns = ["file", "rows", "made by", "SHA-256 of the manifest", "still that file"]
        yield html_table(
            columns,
            [
                [
                    visible(record["file"]),
                    str(record["rows"]),
                    visible(record["made_by"]),
                    record["manifest_sha256"],
                    "yes" if record["matches"] else "no, it was changed",
                ]
                for record in records
            ],
        )


def _sft_summary(setting: Callable[..., str], rows: Sequence[Row]) -> str:
    facts = {
        "policy": setting("policy", "model"),
        "demonstrations": setting("data", "sources"),
        "steps": str(rows[-1]["step"] if rows else 0),
        "demonstrations per step": setting("training", "rows_per_step"),
    }
    if rows:
        facts["loss of the first and the last step, nats per token"] = (
            f"{rows[0]['sft/loss']:.4f}, {rows[-1]['sft/loss']:.4f}"
        )
    if losses := [(row["held_out/loss"], row["step"]) for row in rows if "held_out/loss" in row]:
        lowest, step = min(losses)
        facts["held-out loss, lowest and last"] = f"{lowest:.4f} (step {step}), {losses[-1][0]:.4f}"
    return html_table(["", ""], [[name, visible(value)] for name, value in facts.items()])


def _look_panel(rows: Sequence[Row]) -> list[str]:
    found = looks(rows)
    if not found:
        text = "Nothing stands out in the metrics. That proves nothing: read the answers below."
        return [paragraph(text)]
    text = "Each line says where to look. None says that something is wrong."
    return [notice(found), paragraph(text)]


# Charts -------------------------------------------------------------------------------------------


def _points(rows: Sequence[Row], name: str) -> Points:
    """Step and value where the metric is there, thinned out in long runs."""
    points = [(float(row["step"]), float(row[name])) for row in rows if name in row]
    size = -(-len(points) // MAX_POINTS) or 1
    return [
        (statistics.fmean(x for x, _ in part), statistics.fmean(y for _, y in part))
        for part in _slices(points, size)
    ]


def _slices(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _charts(rows: Sequence[Row], wanted: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for title, lines in wanted.items():
        found = {label: _points(rows, name) for label, name in lines.items()}
        yield from _chart(title, found)


def _chart(title: str, series: Mapping[str, Points]) -> Iterator[str]:
    """A chart of the lines that have points, if any has."""
    present = {label: points for label, points in series.items() if points}
    if present:
        yield line_chart(present, title=title, x_label="step", colors=COLORS[1:])


def _reward_charts(rows: Sequence[Row]) -> Iterator[str]:
    means = _points(rows, "reward/mean")
    spreads = _points(rows, "reward/std")
    if means:
        band = [(x, y - s, y + s) for (x, y), (_, s) in zip(means, spreads, strict=False)]
        yield line_chart(
            {"mean ± spread of the step": means},
            bands={"mean ± spread of the step": band},
            title="reward",
            x_label="step",
            colors=COLORS[1:],
        )
    yield from _gold_chart(rows)
    names = sorted({name for row in rows for name in row if name.startswith("reward/part/")})
    parts = {name.removeprefix("reward/part/"): _points(rows, name) for name in names}
    shaping = {n.removeprefix("shaping/"): parts.pop(n) for n in list(parts) if "shaping/" in n}
    drawn = [means]  # A reward that consists of one part is not drawn twice.
    for name, points in list(parts.items()):
        if points in drawn:
            del parts[name]
        drawn.append(points)
    for title, series in (("parts of the reward", parts), ("added by shaping", shaping)):
        for few in _slices(list(series.items()), len(COLORS) - 1):
            yield from _chart(title, dict(few))
    names = sorted({name for row in rows for name in row if name.startswith("reward/shaping/")})
    touched = {name.removeprefix("reward/shaping/"): _points(rows, name) for name in names}
    yield from _chart("share of answers that shaping touched", touched)


def _benchmark_charts(rows: Sequence[Row]) -> Iterator[str]:
    beside = ("eval/stopped", "eval/tokens", "eval/unscored")
    names = {n: None for row in rows for n in row if n.startswith("eval/") and n not in beside}
    domains = [n for n in names if n.startswith("eval/domain/") or n == "eval/average"]
    benchmarks = [n for n in names if n not in domains]
    for title, chosen in (("score by domain", domains), ("score by benchmark", benchmarks)):
        series = {n.removeprefix("eval/").removeprefix("domain/"): _points(rows, n) for n in chosen}
        for few in _slices(list(series.items()), len(COLORS) - 1):
            yield from _chart(title, dict(few))
    yield from _charts(
        rows,
        {
            "benchmark answers: share": {"stop": "eval/stopped", "unscored": "eval/unscored"},
            "benchmark answers: tokens": {"mean": "eval/tokens"},
        },
    )


def _gold_chart(rows: Sequence[Row]) -> Iterator[str]:
    gold = _points(rows, "gold/mean")
    if gold:
        errors = dict(_points(rows, "gold/standard_error"))
        yield line_chart(
            {"gold ± standard error (left)": gold},
            bands={
                "gold ± standard error (left)": [
                    (x, y - errors[x], y + errors[x]) for x, y in gold if x in errors
                ]
            },
            right={"training reward (right)": _points(rows, "gold/training_reward")},
            title="gold against training reward",
            x_label="step",
            colors=(COLORS[3], COLORS[1]),
        )


def _length_charts(rows: Sequence[Row], samples: Sequence[Row]) -> Iterator[str]:
    tenths = [row for row in rows if "watch/score_by_length/1" in row]
    if tenths:
        chosen = {row["step"]: row for row in (tenths[0], tenths[len(tenths) // 2], tenths[-1])}
        yield line_chart(
            {
                f"step {step}": [
                    (float(n), row[f"watch/score_by_length/{n}"]) for n in range(1, 11)
                ]
                for step, row in chosen.items()
            },
            title="score by length of the answer",
            x_label="tenth of the answers, from the shortest to the longest",
        )
    dots = [(float(r["num_tokens"]), r["score"]) for r in samples if r["score"] is not None]
    if dots:
        yield scatter_chart(
            dots[:: -(-len(dots) // MAX_DOTS)],
            title=f"score of each answer of step {samples[0]['step']}",
            x_label="tokens",
        )


def _time_chart(rows: Sequence[Row]) -> Iterator[str]:
    names = sorted({n for row in rows for n in row if n.startswith("time/") and n != "time/step"})
    series = {name.removeprefix("time/"): _points(rows, name) for name in names}
    if series:
        ordered = sorted(series.items(), key=lambda item: -sum(y for _, y in item[1]))
        yield stacked_chart(
            dict(ordered),
            title="seconds of a step",
            x_label="step",
            colors=(*COLORS[1:], COLORS[0]),
        )


# Tables and texts ---------------------------------------------------------------------------------


def _cost_table(run: RunDir) -> Iterator[str]:
    totals = summarize(run.ledger(), peaks=run.peaks())
    if totals:
        further = known_columns(totals, recorded_prices(run.record()))
        yield heading("Cost so far")
        columns = ["phase", "time", "device-hours", "%", "tokens", "peak memory, GiB"]
        yield html_table(
            [*columns, *map(visible, further)],
            [
                [
                    total.phase,
                    duration(total.seconds),
                    f"{total.device_hours:.4f}",
                    percent(total.share),
                    f"{total.tokens:,}",
                    f"{total.peak_memory_bytes / 2**30:.2f}",
                    *(column(total) for column in further.values()),
                ]
                for total in sorted(totals, key=lambda total: -total.device_hours)
            ],
        )


def _samples(rows: Sequence[Row], title: str, reward: str, option: str = "") -> Iterator[str]:
    """The best, the median and the worst answer of a step."""
    scored = sorted((row for row in rows if row["score"] is not None), key=lambda r: -r["score"])
    if not scored:
        return
    command = f"grlo rollouts {option}".strip()
    yield heading(f"{title}, step {scored[0]['step']}")
    yield paragraph(f"By {reward}; {len(rows)} in all, which `{command}` shows.")
    for name, row in _named(scored):
        parts = [
            f"{part} {value:.3f}"
            for part, value in row.get("parts", {}).items()
            if value or not part.startswith("shaping/")
        ]
        words = [f"{name}: reward {row['score']:.3f}", *parts, f"{row['num_tokens']} tokens"]
        turns = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in row["input"])
        yield quoted(visible(" · ".join([*words, row["finish_reason"]])), _shown(turns))
        yield quoted("answer", _shown(row["output"]) or "(empty)")
        if row.get("note"):
            yield quoted("note", _shown(row["note"]))


def _named(scored: Sequence[Row]) -> Iterable[tuple[str, Row]]:
    if len(scored) < 3:
        return [("best", scored[0]), ("worst", scored[-1])][: len(scored)]
    return [("best", scored[0]), ("median", scored[len(scored) // 2]), ("worst", scored[-1])]


def _shown(text: str) -> str:
    text = visible(text)
    more = len(text) - MAX_CHARACTERS
    return text if more <= 0 else f"{text[:MAX_CHARACTERS]}\n... {more:,} more characters"
