"""The report of a study in Markdown: whole tables, the numbers of the page, no markup in texts."""

from __future__ import annotations

import re

import pytest

from grlo.stages.study_markdown import study_markdown
from grlo.studies.findings import CostRatio
from made_up_study import ARMS, EVIL, make_study, poisoned


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every row of every table; `\\|` is none of their ends."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


@pytest.fixture(scope="module")
def text() -> str:
    return study_markdown(make_study(failures=("ppo/seed_9 failed:\n```\nout of memory",)))


@pytest.mark.parametrize("is_hostile", [False, True])
def test_every_row_of_a_table_has_the_cells_of_its_head(is_hostile):
    findings = make_study(per_benchmark=0)
    findings = poisoned(findings) if is_hostile else findings
    found = tables(study_markdown(findings))
    assert len(found) > 15
    for table in found:
        assert len({len(row) for row in table}) == 1


def test_the_answer_comes_first_and_every_arm_is_there(text):
    assert text.index("## The answer") < text.index("|")
    assert all(label in text for label, *_ in ARMS.values())


def test_scores_have_their_intervals(text):
    assert re.search(r"\| open-ended RL, PPO \(treatment\) \| 45\.\d \[43\.\d, 47\.\d\] ", text)
    assert "**+20" in text


def test_protocol_costs_and_limits_are_part_of_the_appendix(text):
    for words in ("What to know first", "Cost of training", "Benchmarks", "Versions", "Overlap:"):
        assert words in text


def test_a_ratio_is_one_item_with_its_warnings_before_its_numbers():
    ratio = CostRatio("ours", "theirs", {"prompts": 46.2}, ("models differ",))
    text = study_markdown(make_study(per_benchmark=0, ratios=(ratio,)))
    assert (
        "- **theirs, divided by ours**\n  - models differ\n  - 46.2 times the prompts (not" in text
    )


def test_hostile_texts_are_no_markup():
    text = study_markdown(poisoned(make_study(per_benchmark=0)))
    assert "<script" not in text
    assert "<img" not in text
    assert not set("\u202e\x1b\ud800\u2028") & set(text)
    assert "alert(1)" in text
    assert EVIL not in text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("![x](http://a)", "![x\\](http://a)"),
        ("[a]: http://b", "[a\\]: http://b"),
        ("a | b", "a &#124; b"),
        ("# title\n\n## other", "\\# title ## other"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("---", "\\---"),
        ("<b>", "&lt;b&gt;"),
        ("**bold** _it_ `code`", "\\*\\*bold\\*\\* \\_it\\_ \\`code\\`"),
        ("nano_code +3.1 [2, 4]", "nano_code +3.1 [2, 4]"),
    ],
)
def test_titles_are_words_whatever_they_hold(hostile, shown):
    findings = make_study(arms=("base",), per_benchmark=0, question=hostile)
    assert f"\n{shown}\n" in study_markdown(findings)


def test_what_a_failed_job_said_cannot_end_its_fence(text):
    body = text[text.index("## Failures") :].split("## ")[1]
    fence = re.search(r"^`{3,}$", body, flags=re.MULTILINE)
    assert fence is not None
    assert len(fence[0]) == 4
    assert body.count(f"\n{fence[0]}\n") == 2
