"""The transcripts of a study's page in a real browser: what is shown for what is chosen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from grlo.stages.study_page import study_page
from grlo.studies.findings import StudyFindings, TranscriptGroup
from made_up_study import DOMAINS, make_study, poisoned

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium: set CHROMIUM or install it")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
PER_PAGE = 10


@dataclass
class Opened:
    """A page, and what it has said and asked for."""

    page: sync_api.Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def titles(self) -> list[str]:
        """Of the problems that are shown."""
        return self.page.locator("#browser-list h3").all_inner_texts()

    def choose(self, name: str, value: str) -> None:
        self.page.locator(f"#browser select[name={name}]").select_option(value)

    def count(self) -> str:
        return self.page.locator("#browser-count").inner_text()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study() -> StudyFindings:
    return make_study(arms=("base", "ppo", "shuffled"), seeds=(0, 1), per_benchmark=12)


@pytest.fixture
def open_page(chromium, tmp_path):
    """Opens the page of findings from a file; in the end nothing may have gone wrong."""
    opened: list[Opened] = []

    def open_(findings: StudyFindings, *, window=DESKTOP, **options) -> Opened:
        file: Path = tmp_path / f"page_{len(opened)}.html"
        file.write_text(study_page(findings), encoding="utf-8")
        page = chromium.new_page(viewport=window, **options)
        own = Opened(page)
        page.on("console", lambda message: own.complaints.append(message.text))
        page.on("pageerror", lambda error: own.complaints.append(str(error)))
        page.on("dialog", lambda dialog: own.complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: own.requests.append(request.url))
        page.goto(file.as_uri())
        opened.append(own)
        return own

    yield open_
    for number, own in enumerate(opened):
        own.page.close()
        assert own.complaints == []
        assert own.requests == [(tmp_path / f"page_{number}.html").as_uri()]


def answers(group: TranscriptGroup, arm: str):
    return next(answer for answer in group.answers if answer.arm == arm)


def named(group: TranscriptGroup) -> str:
    return f"{group.benchmark} {group.problem}"


def test_base_and_first_treatment_are_side_by_side_at_first(open_page, study):
    opened = open_page(study)
    sides = opened.page.locator("#browser-list article").first.locator(".side")
    assert sides.locator("h4").all_inner_texts() == ["base model", "open-ended RL, PPO"]
    first = study.transcripts[0]
    shown = sides.locator("pre").all_inner_texts()
    assert shown == [answers(first, arm).text for arm in ("base", "ppo")]
    left, right = (sides.nth(number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_filter_by_domain_leaves_the_problems_of_that_domain(open_page, study, window):
    opened = open_page(study, window=window)
    opened.choose("domain", "code")
    assert opened.count().startswith("12 of 48 problems")
    assert all(title.startswith("nano_code ") for title in opened.titles())
    assert opened.page.locator("#browser-page").inner_text() == "1 of 2"
    opened.page.locator("#browser-next").click()
    assert len(opened.titles()) == 2
    assert opened.page.locator("#browser-next").is_disabled()
    opened.page.locator("#browser-back").click()
    assert len(opened.titles()) == PER_PAGE


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_sorting_by_length_orders_the_answers_at_the_right(open_page, study, window, direction):
    opened = open_page(study, window=window)
    opened.choose("sort", "length")
    opened.choose("direction", direction)
    groups = sorted(
        study.transcripts,
        key=lambda group: answers(group, "ppo").tokens,
        reverse=direction == "down",
    )
    wanted = [answers(group, "ppo").tokens for group in groups[:PER_PAGE]]
    facts = opened.page.locator("#browser-list .side:last-child .note:nth-child(2)")
    shown = [int(text.split(" tokens")[0].split("· ")[-1]) for text in facts.all_inner_texts()]
    assert shown == wanted


def test_sorting_by_change_of_reward_follows_the_chosen_arms(open_page, study):
    opened = open_page(study)
    opened.choose("sort", "reward_change")
    opened.choose("left", "ppo")
    opened.choose("right", "shuffled")

    def change(group: TranscriptGroup) -> float:
        return (answers(group, "shuffled").reward or 0) - (answers(group, "ppo").reward or 0)

    wanted = sorted(study.transcripts, key=change, reverse=True)[:PER_PAGE]
    assert [t.split(" same")[0].split(" became")[0] for t in opened.titles()] == [
        named(group) for group in wanted
    ]


def test_another_arm_shows_its_own_answers(open_page, study):
    opened = open_page(study)
    opened.choose("right", "shuffled")
    first = opened.page.locator("#browser-list article").first.locator(".side").nth(1)
    assert first.locator("h4").inner_text() == "shuffled reward"
    assert first.locator("pre").inner_text() == answers(study.transcripts[0], "shuffled").text


@pytest.mark.parametrize("change", ["right", "wrong", "same"])
def test_the_filter_by_change_counts_verdicts(open_page, study, change):
    def sign(group: TranscriptGroup) -> str:
        gain = (answers(group, "ppo").score or 0) - (answers(group, "base").score or 0)
        return "right" if gain > 0 else "wrong" if gain < 0 else "same"

    opened = open_page(study)
    opened.choose("change", change)
    wanted = sum(sign(group) == change for group in study.transcripts)
    assert 0 < wanted < len(study.transcripts)
    assert opened.count().startswith(f"{wanted} of 48 problems: {wanted} ")


def test_search_finds_words_of_questions_and_answers_and_marks_them(open_page, study):
    target = study.transcripts[17]
    changed = tuple(
        TranscriptGroup(**{**vars(group), "question": group.question + " A Zebra!"})
        if group is target
        else group
        for group in study.transcripts
    )
    opened = open_page(StudyFindings(**{**vars(study), "transcripts": changed}))
    opened.page.get_by_label("Search").fill("zebra")
    assert [title.split(" ")[0] for title in opened.titles()] == [target.benchmark]
    assert opened.page.locator("#browser-list mark").all_inner_texts() == ["Zebra"]
    opened.page.get_by_label("Search").fill("nobody wrote this")
    assert opened.count() == "0 of 48 problems"
    assert opened.titles() == []


def test_long_answers_are_cut_until_they_are_asked_for(open_page, study):
    group = study.transcripts[0]
    long = tuple(
        type(answer)(**{**vars(answer), "text": "line\n" * 200}) for answer in group.answers
    )
    groups = (TranscriptGroup(**{**vars(group), "answers": long}), *study.transcripts[1:])
    opened = open_page(StudyFindings(**{**vars(study), "transcripts": groups}))
    text = opened.page.locator("#browser-list .side pre").first
    before = text.bounding_box()["height"]
    button = opened.page.locator("#browser-list .side button").first
    assert button.inner_text() == "Show all"
    assert button.get_attribute("aria-expanded") == "false"
    button.press("Enter")
    assert text.bounding_box()["height"] > 3 * before
    assert button.get_attribute("aria-expanded") == "true"
    assert button.inner_text() == "Show less"


def test_the_keyboard_alone_reaches_and_works_every_control(open_page, study):
    opened = open_page(study)
    opened.page.locator("#browser select[name=left]").focus()
    names = []
    for _ in range(8):
        names.append(opened.page.evaluate("document.activeElement.name"))
        opened.page.keyboard.press("Tab")
    assert names == [
        "left",
        "right",
        "domain",
        "benchmark",
        "change",
        "sort",
        "direction",
        "search",
    ]
    opened.page.get_by_label("Search").focus()
    opened.page.keyboard.press("Enter")  # Must not send the form anywhere.
    opened.page.locator("#browser-next").focus()
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#browser-page").inner_text() == "2 of 5"
    assert opened.page.evaluate("document.activeElement.id") == "browser-list"


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_is_as_wide_as_the_window_with_everything_unfolded(open_page, study, window):
    opened = open_page(study, window=window)
    assert opened.overflow() <= 0
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert opened.overflow() <= 0


def test_long_words_do_not_make_the_page_wider_on_a_phone(open_page, study):
    opened = open_page(poisoned(study), window=PHONE)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert opened.overflow() <= 0


def test_hostile_texts_are_read_and_never_run(open_page, study):
    opened = open_page(poisoned(study))
    opened.page.get_by_label("Search").fill("<img src")
    assert len(opened.titles()) == PER_PAGE
    assert opened.page.locator("img, iframe, b, #browser-list script").count() == 0
    assert "<script>alert(1)</script>" in opened.page.locator("#browser-list").inner_text()


def test_arms_without_an_answer_to_a_problem_say_so(open_page, study):
    groups = tuple(
        TranscriptGroup(
            **{**vars(group), "answers": tuple(a for a in group.answers if a.arm != "ppo")}
        )
        if number == 0
        else group
        for number, group in enumerate(study.transcripts)
    )
    opened = open_page(StudyFindings(**{**vars(study), "transcripts": groups}))
    first = opened.page.locator("#browser-list article").first
    assert "no answer to this problem" in first.inner_text()
    opened.choose("change", "unscored")
    assert opened.count().startswith("1 of 48 problems: 1 without a score")
    opened.choose("change", "")
    opened.choose("sort", "length")
    for _ in range(4):
        opened.page.locator("#browser-next").click()
    assert (
        "no answer to this problem"
        in opened.page.locator("#browser-list article").last.inner_text()
    )


def test_without_javascript_the_page_says_what_is_missing(open_page, study):
    opened = open_page(study, java_script_enabled=False)
    assert opened.page.get_by_text("The transcripts need JavaScript").is_visible()
    assert not opened.page.locator("#browser").is_visible()
    assert opened.page.get_by_text("The answer", exact=True).first.is_visible()


def test_links_of_the_contents_lead_to_their_sections(open_page, study):
    opened = open_page(study)
    for link in opened.page.locator("nav a").all():
        link.click()
        key = (link.get_attribute("href") or "")[1:]
        top = opened.page.evaluate(f"document.getElementById('{key}').getBoundingClientRect().top")
        assert -1 <= top < DESKTOP["height"]
    assert set(DOMAINS) <= {
        option.get_attribute("value")
        for option in opened.page.locator("#browser select[name=domain] option").all()
    }
