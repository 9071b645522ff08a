"""Puts together what a study has found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grlo.errors import GrloError
from grlo.evaluation.ratios import CostRow, mismatches, ratios
from grlo.evaluation.results import BenchmarkResult
from grlo.prompts.manifests import MANIFEST
from grlo.reporting.look import looks
from grlo.studies import curves, scoring
from grlo.studies.answer import answer
from grlo.studies.costing import arm_cost, match
from grlo.studies.findings import (
    AVERAGE,
    ArmFindings,
    BenchmarkFacts,
    CostRatio,
    PublishedFindings,
    StudyFindings,
)
from grlo.studies.layout import StudyDir
from grlo.studies.loading import Study
from grlo.studies.results import ArmRun, read_arms, read_wide
from grlo.studies.settings import PublishedRow, StudySettings

_RESOURCES = {
    "device_hours": "device-hours",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "flops": "FLOPs",
    "prompts": "prompts",
}


def analyse(study: Study, folder: StudyDir) -> StudyFindings:
    """The findings of what is finished of a study, without transcripts.

    Raises:
        DataError: A file of a finished arm is damaged, or arms were measured by unlike protocols.
        CheckpointError: An arm was finished with other settings than those of the study now.
    """
    return assemble(
        study.settings,
        read_arms(study, folder),
        wide=read_wide(study, folder),
        command=f"grlo study {study.path.name} --out {folder.path.name}",
    )


def assemble(
    settings: StudySettings,
    runs: Mapping[str, Sequence[ArmRun]],
    *,
    wide: Sequence[BenchmarkResult] = (),
    command: str,
) -> StudyFindings:
    """The findings of runs, without transcripts.

    Args:
        settings: What the arms are.
        runs: By arm, one for each finished seed.
        wide: The base model's many answers, if any.
        command: That made the report.

    Raises:
        DataError: Arms were measured by unlike protocols.
    """
    base = settings.base
    arms = tuple(
        _arm(settings, name, runs[name], base=runs[base], wide=wide)
        for name, arm in settings.arms.items()
        if arm.role != "stage"
    )
    everything = [run for own in runs.values() for run in own]
    records = [run.record for run in everything if run.record]
    finished = [arm for arm in arms if arm.seeds]
    domains = dict.fromkeys(scoring.domains_of(everything).values())
    return StudyFindings(
        title=settings.title,
        question=settings.question.strip(),
        answer=answer(finished),
        notes=tuple(_notes(settings, arms)),
        seeds=settings.seeds,
        base=base,
        arms=arms,
        benchmarks=tuple(_benchmarks(runs)),
        domains=tuple(domains),
        matching=_matching_in_words(settings),
        currency=settings.currency,
        ratios=tuple(_ratios(settings, finished, runs)),
        published=tuple(map(_published, settings.published)),
        failures=(),
        data=tuple(_data(settings, runs)),
        versions=records[-1].get("versions", {}) if records else {},
        commit=str(records[-1].get("commit") or "") if records else "",
        command=command,
        transcripts=(),
    )


def _arm(
    study: StudySettings,
    name: str,
    runs: Sequence[ArmRun],
    *,
    base: Sequence[ArmRun],
    wide: Sequence[BenchmarkResult],
) -> ArmFindings:
    settings = study.arms[name]
    domain_of = scoring.domains_of(runs)
    is_base = name == study.base
    paired = [] if is_base else [r for r in runs if r.seed in {one.seed for one in base}]
    scores = scoring.matrices(runs)
    gained = scoring.gains(paired, base) if paired else {}
    of_seeds = {run.seed: curves.curve(run) for run in runs}
    measured = {seed: points for seed, points in of_seeds.items() if points}
    return ArmFindings(
        name=name,
        label=settings.label,
        role=settings.role,
        description=settings.description,
        model=settings.model or _model(runs),
        trains=settings.trains,
        seeds=tuple(run.seed for run in runs),
        unfinished=tuple(s for s in study.seeds if s not in {r.seed for r in runs}),
        benchmarks=scoring.by_benchmark(scores, least=0.0),
        domains=scoring.by_domain(scores, domain_of, least=0.0),
        benchmark_gains=scoring.by_benchmark(gained),
        domain_gains=scoring.by_domain(gained, domain_of),
        by_seed=scoring.by_seed(scores, domain_of),
        forms=scoring.forms(runs, domain_of),
        ended=scoring.ended(runs, domain_of),
        lenient=scoring.lenient(runs),
        attempts=scoring.attempts(runs, domain_of),
        decomposition=scoring.decompositions(paired, base, domain_of) if paired else {},
        elicitation={} if is_base else scoring.elicitations(runs, wide),
        cost=arm_cost(runs, prices=study.prices),
        match=match(runs),
        rewards={run.seed: own for run in runs if (own := curves.rewards(run))},
        curves=tuple(point for points in of_seeds.values() for point in points),
        correlation=curves.correlation(measured),
        onsets={seed: curves.onset_of(points) for seed, points in measured.items()},
        looks=tuple(_looks(runs)),
    )


def _model(runs: Sequence[ArmRun]) -> str:
    """What the first stage started from."""
    return next((run.origin for run in runs if run.origin), "")


def _looks(runs: Sequence[ArmRun]) -> list[str]:
    return [f"seed {run.seed}: {line}" for run in runs for line in looks(run.metrics)]


def _benchmarks(runs: Mapping[str, Sequence[ArmRun]]) -> list[BenchmarkFacts]:
    found = {
        result.name: BenchmarkFacts(
            name=result.name,
            domain=result.domain,
            unit=result.unit,
            num_problems=result.num_problems,
            num_samples=result.identity.sampling.num_samples,
            source=result.source,
            protocol=result.protocol,
            is_private=result.is_private,
        )
        for own in runs.values()
        for run in own
        for result in run.results
    }
    return [*found.values()]


def _matching_in_words(study: StudySettings) -> str:
    matching = study.matching
    if matching is None:
        return ""
    what = _RESOURCES[matching.by]
    if matching.to:
        label = study.arms[matching.to].label
        return f"Trained arms may spend the {what} that {label} has spent with the same seed."
    return f"Trained arms may spend {matching.amount:,.6g} {what}."


def _notes(study: StudySettings, arms: Sequence[ArmFindings]) -> list[str]:
    if not study.arms:
        return []
    notes = [
        "Scores are means over answers, problems and seeds, in percent. Intervals are of 95 %: "
        "clustered by problem and, with more than one seed, by seed as well (Cameron, Gelbach and "
        "Miller 2011), with the t distribution: they speak of other problems and other training "
        "seeds alike. Gains are paired by problem and seed. Domains count equally in the average, "
        "benchmarks equally in their domain."
    ]
    if len(study.seeds) == 1:
        notes.append("There is one seed: intervals say nothing of how another run would end.")
    for arm in arms:
        if arm.unfinished:
            listed = ", ".join(map(str, arm.unfinished))
            notes.append(f"{arm.label}: not finished with seed {listed}.")
        settings = study.arms[arm.name]
        if study.matching and settings.recipes and not settings.matched:
            notes.append(f"{arm.label} is NOT matched in cost: as long as its recipe has it.")
        form = arm.forms.get(AVERAGE)
        if form is not None and form.unscored:
            notes.append(f"{arm.label}: {form.unscored} answers could not be scored.")
    return notes


# Costs beside others ------------------------------------------------------------------------------


def _ratios(
    study: StudySettings, arms: Sequence[ArmFindings], runs: Mapping[str, Sequence[ArmRun]]
) -> list[CostRatio]:
    rows = {arm.name: _cost_row(arm, runs[arm.name]) for arm in arms if arm.cost is not None}
    rows |= {row.name: _published_row(row) for row in study.published}
    treatments = [arm.name for arm in arms if arm.role == "treatment" and arm.name in rows]
    pairs = [
        (one, arm.name)
        for one in treatments
        for arm in arms
        if arm.name in rows and arm.name not in treatments
    ]
    pairs += [(ratio.of, ratio.to) for ratio in study.ratios]
    return [
        CostRatio(
            of=rows[one].name,
            to=rows[other].name,
            ratios=ratios(rows[other], rows[one]),
            warnings=tuple(mismatches(rows[one], rows[other])),
        )
        for one, other in dict.fromkeys(pairs)
        if one in rows and other in rows
    ]


def _cost_row(arm: ArmFindings, runs: Sequence[ArmRun]) -> CostRow:
    assert arm.cost is not None
    return CostRow(
        name=arm.label,
        source="this study",
        model=Path(arm.model).name,
        parameters=None,
        hardware=", ".join(arm.cost.devices),
        sampling=_sampling(runs),
        prompts=arm.cost.distinct_prompts,
        device_hours=arm.cost.device_hours,
        flops=arm.cost.flops,
        money=arm.cost.money,
    )


def _sampling(runs: Sequence[ArmRun]) -> str:
    sampling = runs[0].record.get("recipe", {}).get("sampling")
    if not sampling:
        return "demonstrations"
    count = sampling["samples_per_prompt"]
    plural = "s" if count > 1 else ""
    return f"{count} sample{plural} of at most {sampling['max_tokens']} tokens"


def _published_row(row: PublishedRow) -> CostRow:
    return CostRow(
        name=row.name,
        source=row.source,
        model=row.model,
        parameters=row.parameters or None,
        hardware=row.hardware,
        sampling=row.sampling,
        prompts=row.prompts or None,
        device_hours=row.device_hours or None,
        flops=row.flops or None,
        money=row.money or None,
    )


def _published(row: PublishedRow) -> PublishedFindings:
    costs = {name: getattr(row, name) for name in ("prompts", "device_hours", "flops", "money")}
    return PublishedFindings(
        name=row.name,
        source=row.source,
        model=row.model,
        hardware=row.hardware,
        sampling=row.sampling,
        note=row.note,
        costs={name: value for name, value in costs.items() if value},
        scores=row.scores,
    )


def _data(study: StudySettings, runs: Mapping[str, Sequence[ArmRun]]) -> list[dict[str, Any]]:
    """Records of the prompt sets, each once, with the arms that were trained on it."""
    found: dict[str, dict[str, Any]] = {}
    for name, own in runs.items():
        for record in own[0].record.get("data", []) if own else []:
            entry = found.setdefault(record["manifest_sha256"], {**record, "arms": []})
            entry["arms"].append(study.arms[name].label)
    for entry in found.values():
        if (manifest := _manifest(entry)) is not None:
            entry["manifest"] = manifest
    return [*found.values()]


def _manifest(record: Mapping[str, Any]) -> dict[str, Any] | None:
    file = Path(record["file"]).parent / MANIFEST
    if not file.is_file():
        return None
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != record["manifest_sha256"]:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise GrloError(f"{file}: {error}") from error
