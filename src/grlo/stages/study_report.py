"""The report of a study, from its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers.utils.logging import disable_progress_bar

from grlo import registry
from grlo.errors import CheckpointError, GrloError
from grlo.interfaces import BuildContext, Reward
from grlo.progress import progress_bar
from grlo.rundir import append_jsonl, read_jsonl, write_atomic
from grlo.settings import Recipe
from grlo.stages.runs import choose_device
from grlo.stages.study_json import findings_json
from grlo.stages.study_markdown import study_markdown
from grlo.stages.study_page import study_page
from grlo.studies.analysis import analyse
from grlo.studies.findings import StudyFindings
from grlo.studies.layout import StudyDir
from grlo.studies.loading import Study, load_arm, load_study
from grlo.studies.transcripts import Picked, grouped, pick


def is_study(path: Path) -> bool:
    """Whether a folder holds a study."""
    return StudyDir(path).study_file.is_file()


def find(study: Study, folder: StudyDir, *, failures: Sequence[str] = ()) -> StudyFindings:
    """What the finished arms of a study say, with the answers that are shown.

    Raises:
        GrloError: A file of a finished arm is damaged, or arms are not comparable.
    """
    picked = pick(study, folder)
    shown = grouped(picked, rewards=_rewards(study, folder, picked))
    found = analyse(study, folder)
    return replace(found, transcripts=tuple(shown), failures=tuple(failures))


def write_report(study: Study, folder: StudyDir, *, failures: Sequence[str] = ()) -> StudyFindings:
    """Writes `report.html` and `findings.json`, and keeps where the study file lies.

    Raises:
        GrloError: See `find`.
    """
    facts = {"study": str(study.path), "seeds": list(study.settings.seeds)}
    write_atomic(folder.study_file, json.dumps(facts) + "\n")
    found = find(study, folder, failures=failures)
    write_atomic(folder.report_file, study_page(found))
    text = json.dumps(findings_json(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder.findings_file, text + "\n")
    return found


def read_study(path: Path) -> tuple[Study, StudyDir]:
    """The study that a folder belongs to.

    Raises:
        CheckpointError: It holds none, or its study file is gone.
        RecipeError: The study file has problems.
    """
    folder = StudyDir(path)
    try:
        facts = json.loads(folder.study_file.read_bytes())
        file, seeds = Path(facts["study"]), [int(seed) for seed in facts["seeds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no study ({error}).") from error
    if not file.is_file():
        raise CheckpointError(
            f"{folder.study_file} says that the study file is {file}, which is not there. Put it "
            "back, or run `grlo study FILE --out` with the file where it lies now."
        )
    return load_study(file, seeds=seeds), folder


def render(found: StudyFindings, *, form: str) -> str:
    """The report as `html`, `md` or `json`."""
    if form == "md":
        return study_markdown(found)
    if form == "json":
        table = findings_json(found)
        return json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return study_page(found)


def _rewards(study: Study, folder: StudyDir, picked: Sequence[Picked]) -> dict[str, float | None]:
    """Rewards of answers by key; each answer is scored once and kept."""
    name = study.settings.transcripts.reward_of
    if not name or not picked:
        return {}
    found = {row["key"]: row["reward"] for row in read_jsonl(folder.rewards_file)}
    new = list({own.key: own for own in picked if own.key not in found}.values())
    if not new:
        return found
    recipe = load_arm(study, name, seed=study.settings.seeds[0])
    assert isinstance(recipe, Recipe)
    device = choose_device(recipe.training.device)
    disable_progress_bar()  # Of loading; ours is about answers.
    reward: Reward = cast(Any, recipe.reward).build(
        context=BuildContext(device=device, seed=recipe.seed)
    )
    try:
        with progress_bar("rewards of the answers in the report") as progress:
            scores = reward.score([own.rollout for own in new], progress=progress)
    except GrloError as error:
        print(f"answers are shown without rewards: {error}")
        return found
    finally:
        registry.close(reward)
    rows = [{"key": own.key, "reward": s.value} for own, s in zip(new, scores, strict=True)]
    append_jsonl(folder.rewards_file, rows)
    return found | {row["key"]: row["reward"] for row in rows}
