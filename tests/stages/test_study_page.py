"""The page of a study: what comes first, what is left out, and that no text is markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from grlo.evaluation.stats import Estimate
from grlo.stages.study_browser import json_text
from grlo.stages.study_curves import over_cost, over_steps
from grlo.stages.study_page import study_page
from grlo.studies.findings import AVERAGE, CostRatio, CurvePoint, StudyFindings
from made_up_study import ARMS, MANIFEST, RECORD, make_study, poisoned


class Reader(HTMLParser):
    """Elements, attributes, texts and scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self._open: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open = (tag, dict(attrs))

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open
        if tag == "script":
            self.scripts.append((attributes, data))
        elif tag == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", {})

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def keys(self) -> list[str]:
        """Of the sections, in their order."""
        return [value for tag, name, value in self.attributes if (tag, name) == ("section", "id")]


@pytest.fixture(scope="module")
def small() -> StudyFindings:
    return make_study(
        arms=("base", "ppo", "grpo", "shuffled"),
        per_benchmark=2,
        failures=("ppo/seed_9 failed:\nout of memory",),
    )


@pytest.fixture(scope="module")
def plain(small) -> StudyFindings:
    """The same without charts, which take most of a page's time."""
    arms = tuple(
        replace(arm, curves=(), rewards={}, elicitation={}, onsets={}, correlation=None)
        for arm in small.arms
    )
    return replace(small, arms=arms)


@pytest.fixture(scope="module")
def page(small) -> Reader:
    return Reader(study_page(small))


def test_the_answer_comes_before_any_table_and_the_contents(page, small):
    html = study_page(small)
    first = html.index(small.answer[0].split(":")[0])
    assert first < html.index("<nav") < html.index('id="arms"')
    assert first < html.index("<table")
    assert page.keys[0] == "answer"


def test_sections_are_in_the_order_in_which_a_reader_asks(page):
    assert page.keys == [
        "answer",
        "notes",
        "arms",
        "results",
        "efficiency",
        "curves",
        "parts",
        "elicited",
        "over-optimisation",
        "cost",
        "beside",
        "data",
        "look",
        "failures",
        "transcripts",
        "protocol",
    ]


def test_contents_lead_to_every_section_but_the_answer_above_them(page):
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{key}" for key in page.keys[1:]]


def test_no_arm_is_missing_from_any_table_of_scores():
    findings = make_study(per_benchmark=1, with_curves=False)
    unfinished = replace(
        findings.arms[3],
        seeds=(),
        unfinished=(0, 1, 2, 3, 4),
        domains={},
        domain_gains={},
        benchmarks={},
        benchmark_gains={},
        by_seed={},
        cost=None,
        curves=(),
        rewards={},
    )
    arms = (*findings.arms[:3], unfinished, *findings.arms[4:])
    html = study_page(replace(findings, arms=arms))
    for title in ("Scores by domain", "Gains over the base by domain"):
        table = html[html.index(title) :].split("</table>")[0]
        labels = [label for key, (label, *_) in ARMS.items() if key != "base"]
        assert all(label in table for label in labels)
    assert "Not finished: 5 of 40" in Reader(html).text


def test_arms_of_one_label_are_told_apart_by_their_keys():
    findings = make_study(per_benchmark=1, with_curves=False)
    same = tuple(replace(arm, label="twin") for arm in findings.arms)
    text = Reader(study_page(replace(findings, arms=same))).text
    assert all(f"twin ({key})" in text for key in ARMS)


def test_hostile_texts_are_shown_and_never_act(small):
    html = study_page(poisoned(small))
    reader = Reader(html)
    assert not set(reader.names) & {"img", "iframe", "link", "object", "embed", "base", "b", "u"}
    assert not any(name.startswith("on") for _, name, _ in reader.attributes)
    assert "alert(1)" in reader.text
    assert not set("\u202e\x1b\ud800\u2028") & set(html)
    html.encode("utf-8")
    assert len(reader.scripts) == 2
    data = json.loads(reader.scripts[0][1])
    assert data["groups"][0]["question"].endswith(
        "\\u202e".replace("u", "x") + "\\x1b[31m\\xd800\\x2028&"
    )


def test_the_page_can_ask_for_nothing(small):
    html = study_page(poisoned(small))
    reader = Reader(html)
    assert not any(
        name in ("src", "srcset", "action", "data", "poster") or name.endswith(":href")
        for _, name, _ in reader.attributes
    )
    links = [value for _, name, value in reader.attributes if name == "href"]
    assert all(value.startswith("#") for value in links)
    assert not re.search(r"url\(|@import|expression\(", "".join(reader.styles))
    styles = [value for _, name, value in reader.attributes if name == "style"]
    assert all(re.fullmatch(r"(background:#[0-9a-f]{6}|left:[\d.]+%)", style) for style in styles)


def test_only_the_script_of_the_page_is_allowed_to_run(page):
    policy = next(value for _, name, value in page.attributes if name == "content")
    (kind, _), (ours, script) = page.scripts
    assert kind["type"] == "application/json"
    assert not ours
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "</" not in script


def test_json_in_a_page_can_hold_no_markup_and_reads_back():
    value = {"a</script>": ["<!--", "&amp;", "\u2028\u2029", "ü"]}
    text = json_text(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("notes", {"notes": (), "matching": ""}),
        ("beside", {"ratios": (), "published": ()}),
        ("data", {"data": ()}),
        ("failures", {"failures": ()}),
        ("transcripts", {"transcripts": ()}),
    ],
)
def test_a_section_without_data_is_left_out(plain, key, changes):
    keys = Reader(study_page(replace(plain, **changes))).keys
    assert key not in keys
    assert "answer" in keys


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("curves", {"curves": (), "rewards": {}}),
        ("over-optimisation", {"onsets": {}, "correlation": None}),
        ("elicited", {"elicitation": {}}),
        ("cost", {"cost": None, "match": None}),
        (
            "parts",
            {"decomposition": {}, "forms": {}, "ended": {}, "lenient": {}, "attempts": {}},
        ),
    ],
)
def test_a_section_of_arms_without_data_is_left_out(small, key, changes):
    arms = tuple(replace(arm, **changes) for arm in small.arms)
    assert key not in Reader(study_page(replace(small, arms=arms))).keys


def test_a_study_of_published_rows_only_is_a_page():
    findings = make_study(
        arms=(),
        domains=(),
        per_benchmark=0,
        answer=(),
        notes=(),
        matching="",
        data=(),
        versions={},
        commit="",
        command="",
    )
    reader = Reader(study_page(findings))
    assert reader.keys == ["beside"]
    assert "General-Reasoner 4B" in reader.text
    assert "232,000" in reader.text
    assert "arXiv:2505.14652, table 2" in reader.text


def test_one_seed_has_no_bands_and_no_table_of_seeds():
    reader = Reader(study_page(make_study(arms=("base", "ppo"), seeds=(0,), per_benchmark=1)))
    assert "1 seed " in reader.text
    assert "Each seed by itself" not in reader.text


def test_intervals_without_ends_are_named_and_not_drawn():
    findings = make_study(per_benchmark=0, with_curves=False)
    endless = Estimate(0.5, math.inf, -math.inf, math.inf)
    arms = tuple(
        replace(arm, domain_gains=dict.fromkeys(arm.domain_gains, endless)) for arm in findings.arms
    )
    html = study_page(replace(findings, arms=arms))
    assert "[-inf, +inf]" in html
    assert 'x1="nan' not in html
    assert "inf%" not in html


def test_a_ratio_stands_in_one_box_with_its_warnings_before_it(plain):
    warned = CostRatio("ours", "theirs", {"prompts": 46.2}, ("models differ",))
    html = study_page(replace(plain, ratios=(warned,), published=()))
    box = html[html.index('<div class="card">') :].split('<div class="card">')[1]
    assert box.index("models differ") < box.index("46.2 times the prompts")
    assert html.count("46.2 times") == 1
    assert "46.2 times the prompts (not like with like)" in html


def test_ratios_without_warnings_are_a_table_of_like_with_like(plain):
    fair = CostRatio("ours", "theirs", {"prompts": 46.2, "flops": 1.0}, ())
    html = study_page(replace(plain, ratios=(fair,), published=()))
    table = html[html.index("Matched in model, hardware and sampling") :].split("</table>")[0]
    assert "46.2 x" in table
    assert "1.00 x" in table
    assert "divided by ours" in table
    assert "not like with like" not in html
    assert 'class="card"' not in html


def test_costs_of_short_runs_are_told_in_seconds(plain):
    arms = tuple(
        arm
        if arm.cost is None
        else replace(arm, cost=replace(arm.cost, device_hours=0.01, phases={"generate": 0.01}))
        for arm in plain.arms
    )
    text = Reader(study_page(replace(plain, arms=arms))).text
    assert "Device-seconds of training by phase" in text
    assert "Device-hours of training by phase" not in text
    after = text[text.index("Device-seconds of training by phase") :]
    assert re.search(r"generate .* 36 36 ", after[:400])


def test_arms_on_unlike_devices_are_not_compared_by_hours_in_silence(plain):
    alone = plain.arms[1]
    assert alone.cost is not None
    moved = replace(alone, cost=replace(alone.cost, devices=("8 x H100",)))
    findings = replace(plain, arms=(plain.arms[0], moved, *plain.arms[2:]))
    assert "ARMS RAN ON UNLIKE DEVICES" in Reader(study_page(findings)).text
    assert "ARMS RAN ON UNLIKE DEVICES" not in Reader(study_page(plain)).text


def test_where_this_machine_keeps_a_model_is_not_told(plain):
    arms = tuple(replace(arm, model="/home/someone/models/base") for arm in plain.arms)
    html = study_page(replace(plain, arms=arms))
    assert ".../models/base" in html
    assert "someone" not in html


def test_published_rows_say_where_comparisons_with_them_limp(page):
    after = page.text[page.text.index("Published rows") :]
    assert "hardware differs: 1 x cpu and 32 x H100" in after


def test_looks_say_look_and_never_detected(page):
    start = page.text.rindex("Where to look")
    section = page.text[start : start + 900]
    assert "look: score and length correlate" in section
    assert "detect" not in page.text


def test_the_end_of_a_failed_job_is_shown_as_it_was(page):
    assert "out of memory" in page.text
    assert "Failed: 1 jobs" in page.text


@pytest.mark.parametrize("manifest", [{}, {"result": 3}, {"audit": 1}, {**MANIFEST, "steps": None}])
def test_manifests_of_another_form_do_not_break_the_page(plain, manifest):
    findings = replace(plain, data=({**RECORD, "manifest": manifest},))
    text = Reader(study_page(findings)).text
    assert "another form" in text
    assert "prompts.jsonl" in text


def test_a_changed_prompt_set_is_told(plain):
    findings = replace(plain, data=({**RECORD, "matches": False},))
    assert "NO: it was changed" in Reader(study_page(findings)).text


def test_problems_of_private_benchmarks_are_in_no_page(plain):
    facts = tuple(replace(own, is_private=own.domain == "code") for own in plain.benchmarks)
    html = study_page(replace(plain, benchmarks=facts))
    assert "of mathematics:" in html
    assert "of code:" not in html


def test_rewards_are_no_order_of_answers_that_have_none(plain):
    groups = tuple(
        replace(group, answers=tuple(replace(a, reward=None) for a in group.answers))
        for group in plain.transcripts
    )
    assert 'value="reward_change"' in study_page(plain)
    assert 'value="reward_change"' not in study_page(replace(plain, transcripts=groups))


def test_a_large_study_stays_below_two_megabytes():
    assert len(study_page(make_study()).encode()) < 2e6


# Curves -------------------------------------------------------------------------------------------


def point(seed: int, step: int, hours: float, score: float) -> CurvePoint:
    return CurvePoint(seed, step, hours, None, {AVERAGE: score})


def test_a_curve_is_the_mean_of_its_seeds_at_equal_cost():
    curves = [
        point(seed, step, step * (1 + seed), 0.1 * step * (1 + seed) + seed)
        for seed in (0, 1)
        for step in range(5)
    ]
    # Both seeds are straight lines of the cost x: 0.1 x and 0.1 x + 1.
    line = over_cost(curves, AVERAGE)
    xs = [x for x, _ in line.points]
    assert xs == [0, 1, 2, 3, 4]
    assert [y for _, y in line.points] == pytest.approx([100 * (0.1 * x + 0.5) for x in xs])
    assert [row[1:] for row in line.band] == [pytest.approx((10 * x, 10 * x + 100)) for x in xs]


def test_a_curve_ends_where_its_first_seed_ends():
    curves = [point(0, n, float(n), 0.0) for n in range(9)]
    curves += [point(1, n, float(n), 1.0) for n in range(2, 5)]
    assert [x for x, _ in over_cost(curves, AVERAGE).points] == [2, 3, 4]


def test_a_domain_without_points_has_no_curve():
    assert over_cost([point(0, 0, 0.0, 0.5)], "code").points == []


def test_rewards_are_those_of_steps_that_all_seeds_have():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 30))
    rewards = {s: tuple((float(n), values[s, n]) for n in range(30 - 5 * s)) for s in (0, 1)}
    line = over_steps(rewards)
    assert [x for x, _ in line.points] == list(range(25))
    assert [y for _, y in line.points] == pytest.approx(values[:, :25].mean(axis=0))
    assert [row[1] for row in line.band] == pytest.approx(values[:, :25].min(axis=0))


def test_long_rewards_are_thinned_to_means():
    line = over_steps({0: tuple((float(n), float(n % 2)) for n in range(1000))})
    assert len(line.points) < 130
    assert line.points[0] == pytest.approx((4.0, 4 / 9))
    assert line.band == []
