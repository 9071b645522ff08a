"""Whether a gain is new or was drawn out of the base model, and where reward and score part."""

from __future__ import annotations

from grlo.evaluation.elicitation import Elicitation
from grlo.evaluation.over_optimisation import Onset
from grlo.reporting.blocks import Block, Cell, Figures, Folded, Section, Table, Text
from grlo.reporting.figures import line_chart
from grlo.reporting.tables import percent
from grlo.stages.study_words import NOTHING, arm_cell, colors, labels
from grlo.studies.findings import StudyFindings


def elicitation_section(findings: StudyFindings) -> Section:
    """What the base model could do before, given many tries."""
    arms = [arm for arm in findings.arms if arm.elicitation]
    names = [f.name for f in findings.benchmarks if any(f.name in a.elicitation for a in arms)]
    if not names:
        return Section("elicited", "Elicited or new", ())
    draws = max(own.num_draws for arm in arms for own in arm.elicitation.values())
    text = (
        "The base model's chance to be right once in k answers, beside the chance of each arm with "
        "one. Solved is right in at least half of the answers. Of the problems that an arm solves, "
        "the base solves those that are kept, has elicited ones right in fewer than half of its "
        f"{draws} answers, and new ones in none; lost are those that the base solves and the arm "
        "never. New depends on the number of answers: what the base has right once in a hundred is "
        "missed by 64 about every other time."
    )
    blocks: list[Block] = [Text(text), Figures(tuple(_chart(findings, n) for n in names))]
    named = labels(findings.arms)
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        rows.append((Cell(name),))
        rows += [
            _elicitation_row(arm_cell(arm, named[arm.name]), arm.elicitation[name])
            for arm in arms
            if name in arm.elicitation
        ]
    columns = (
        "arm",
        "pass@1, %",
        "pass@1 of the base, %",
        "k that the base needs",
        "problems",
        "kept",
        "elicited",
        "new",
        "lost",
    )
    blocks.append(Table(columns, tuple(rows), title="Problems by benchmark"))
    return Section("elicited", "Elicited or new", tuple(blocks), short="Elicited")


def _elicitation_row(first: Cell, own: Elicitation) -> tuple[Cell, ...]:
    needed = f"{own.reached_at}" if own.reached_at is not None else f"more than {own.num_draws}"
    counts = (own.num_problems, own.num_kept, own.num_elicited, own.num_new, own.num_lost)
    return (
        first,
        Cell(percent(own.trained_pass_at_1)),
        Cell(percent(own.base_pass_at.get(1))),
        Cell(needed),
        *(Cell(f"{count:,}") for count in counts),
    )


def _chart(findings: StudyFindings, benchmark: str) -> str:
    named, color_of = labels(findings.arms), colors(findings.arms, base=findings.base)
    series: dict[str, list[tuple[float, float]]] = {}
    used: list[str] = []
    for arm in findings.arms:
        own = arm.elicitation.get(benchmark)
        if own is None:
            continue
        if not series:
            label = f"{named.get(findings.base, 'base')}, once in k"
            series[label] = [(float(k), 100 * p) for k, p in sorted(own.base_pass_at.items())]
            used.append(color_of[findings.base])
        ends = (min(own.base_pass_at, default=1), max(own.base_pass_at, default=1))
        series[named[arm.name]] = [(float(k), 100 * own.trained_pass_at_1) for k in ends]
        used.append(color_of[arm.name])
    return line_chart(
        series, title=f"{benchmark}: percent right", x_label="answers k", colors=used, log_x=True
    )


# Reward against score -----------------------------------------------------------------------------


def over_optimisation_section(findings: StudyFindings) -> Section:
    """Whether the reward goes on rising where scores do not."""
    arms = [arm for arm in findings.arms if arm.onsets or arm.correlation is not None]
    if not arms:
        return Section("over-optimisation", "Over-optimisation", ())
    named = labels(findings.arms)
    text = (
        "Rank correlation of the training reward and the average score over the evaluations of a "
        "run, mean over seeds: 1 where they rise together. Over-optimisation begins where the "
        "score is best, if it stays clearly below that afterwards while the reward goes on rising. "
        "A reward without signal, such as a shuffled one, means nothing by itself."
    )
    rows = tuple(
        (
            arm_cell(arm, named[arm.name]),
            NOTHING if arm.correlation is None else Cell(f"{arm.correlation:+.2f}"),
            Cell(f"{sum(own is not None for own in arm.onsets.values())} of {len(arm.onsets)}"),
        )
        for arm in arms
    )
    columns = ("arm", "rank correlation", "seeds in which it begins")
    blocks: list[Block] = [Text(text), Table(columns, rows)]
    onsets = tuple(
        _onset_row(arm_cell(arm, named[arm.name]), seed, own)
        for arm in arms
        for seed, own in arm.onsets.items()
        if own is not None
    )
    if onsets:
        columns = (
            "arm",
            "seed",
            "best at step",
            "best score, %",
            "last score, %",
            "reward then",
            "reward at the end",
        )
        blocks.append(Folded("Where it begins", (Table(columns, onsets),)))
    return Section("over-optimisation", "Over-optimisation", tuple(blocks))


def _onset_row(first: Cell, seed: int, own: Onset) -> tuple[Cell, ...]:
    words = (
        str(seed),
        str(own.best_step),
        percent(own.best_score),
        percent(own.last_score),
        f"{own.reward_at_best:.3f}",
        f"{own.last_reward:.3f}",
    )
    return (first, *map(Cell, words))
