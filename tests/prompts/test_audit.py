import pytest

from grlo.prompts.audit import AuditedText, Auditor, Finding, Hit, without_common_phrases
from grlo.prompts.overlap import Document
from grlo.prompts.planting import DISGUISES, planted_recall

PROBLEMS = [
    "A baker packs 48 rolls into boxes of six and sells every box for three coins. How many coins "
    "does she earn when two boxes fall into the river?",
    "Write a function that takes a list of words and returns those whose letters are in "
    "alphabetical order. Capital letters count as small ones.",
    "A tank holds 90 litres of brine with two kilograms of salt. Pure water flows in at five "
    "litres a minute and the mixture leaves as fast. How much salt is left after ten minutes?",
    "Prove that the sum of the angles of a triangle on a sphere exceeds two right angles. Then say "
    "by how much, in terms of its area.",
]
SOLUTION = (
    "First we count the boxes, of which there are eight, then we take away the two in the river."
)
WORD = ("the fox sings", "the owl swims", "a cat paints")
CLEAN = "Give a detailed overview of how lighthouses were financed in northern Europe."


def auditor() -> Auditor:
    documents = [Document("made_up", f"item/{i}", text) for i, text in enumerate(PROBLEMS)]
    return Auditor([*documents, Document("made_up", "item/0", SOLUTION, part="solution")])


def levels(text: str, *answers: str) -> dict[str, str]:
    (finding,) = auditor().findings([AuditedText(text, answers)])
    return {hit.level: hit.verdict for hit in finding.hits}


def test_a_copy_is_dropped_on_every_level():
    found = levels(PROBLEMS[0])
    found.pop("numbers", None)  # Among four problems no number is rare.
    assert found == {
        "exact": "drop",
        "contained": "drop",
        "ngram13": "drop",
        "ngram8": "review",
        "coverage": "drop",
        "near_duplicate": "drop",
        "lexical": "drop",
    }


def test_a_problem_inside_a_text_is_contained():
    found = levels(f"{CLEAN} {PROBLEMS[2]} {CLEAN}")
    assert "exact" not in found
    assert found["contained"] == "drop"


def test_a_clean_prompt_has_no_hit():
    assert levels(CLEAN) == {}


def test_shared_words_in_another_order_are_lexical_alone():
    words = PROBLEMS[1].split()
    text = " ".join(words[1::2] + words[::2])
    assert levels(text) == {"lexical": "drop"}


def test_a_paraphrase_is_known_by_its_numbers():
    text = (
        "Out of a dozen boxes, eight held rolls: 48 rolls that a baker sold at three coins a box. "
        "A river took a pair of boxes holding six rolls each. Name the coins earned."
    )
    rare = [Document("x", str(n), f"What is {n} times {n + 1}?") for n in range(60, 90)]
    many = Auditor([Document("x", "rolls", PROBLEMS[0]), *rare])
    other = text.replace("48", "17").replace("three", "nineteen").replace("six", "70")
    same, changed = many.findings([AuditedText(text), AuditedText(other)])
    assert [hit.document for hit in same.hits if hit.level == "numbers"] == [0]
    assert [hit for hit in changed.hits if hit.level == "numbers"] == []


def test_numbers_of_programs_are_not_compared():
    text = PROBLEMS[0]
    documents = [Document("code", "1", text, domain="code"), Document("math", "1", text)]
    rare = [Document("math", str(n), f"What is {n} times {n + 1}?") for n in range(60, 90)]
    (finding,) = Auditor([*documents, *rare]).findings([AuditedText(text)])
    assert [hit.document for hit in finding.hits if hit.level == "numbers"] == [1]


def test_copies_in_several_benchmarks_do_not_make_boilerplate_of_a_problem():
    copies = [
        Document(name, "7", f"{PROBLEMS[1]} {more}")
        for name, more in (("one", ""), ("two", "Test it."), ("three", "assert f(x) == y"))
    ]
    text = " ".join(PROBLEMS[1].split()[:14])
    (finding,) = Auditor(copies).findings([AuditedText(f"Please: {text}, that is all.")])
    assert {hit.document for hit in finding.hits if hit.level == "ngram13"} == {0, 1, 2}


def test_alike_problems_of_one_benchmark_are_several():
    head = "There are six houses in a row and each of them has its own animal, drink and colour."
    alike = [Document("one", str(n), f"{head} Clue {n}: {WORD[n]}.") for n in range(3)]
    (finding,) = Auditor(alike).findings([AuditedText(f"{head} Who drinks tea?")])
    assert {hit.level for hit in finding.hits} & {"ngram8", "ngram13"} == set()


def test_eight_words_in_a_row_are_for_review():
    text = "Please write a function that takes a list of words, then go home and sleep."
    assert levels(text).get("ngram8") == "review"
    assert "drop" not in levels(text).values()


def test_solutions_are_looked_for_in_answers_and_not_in_questions():
    assert levels(SOLUTION) == {}
    assert levels(CLEAN, SOLUTION)["contained"] == "drop"


def test_questions_are_looked_for_in_answers_too():
    assert levels(CLEAN, f"You ask: {PROBLEMS[3]} I do not know.")["contained"] == "drop"


def test_a_short_problem_is_for_review_only():
    short = Auditor([Document("chat", "1", "tell me a joke"), Document("chat", "2", "hi")])
    (finding, greeting) = short.findings(
        [AuditedText("Oh, tell me a joke about cats"), AuditedText("hi")]
    )
    assert [(hit.level, hit.verdict) for hit in finding.hits] == [("contained", "review")]
    assert {(hit.level, hit.verdict) for hit in greeting.hits} == {("exact", "review")}


def test_a_phrase_of_many_rows_is_no_hit_and_is_named():
    head = "doctype html html lang en head meta charset utf 8"
    hit = Hit(0, "ngram8", 11, "review", head)
    sure = Hit(1, "coverage", 0.9, "drop", head)
    rows = [Finding((hit,))] * 5 + [Finding((Hit(1, "ngram8", 11, "review", head), sure))]
    cleaned, phrases = without_common_phrases(rows)
    assert [len(finding.hits) for finding in cleaned] == [0, 0, 0, 0, 0, 2]
    assert phrases == {"doctype html html lang en head meta charset": 6}
    assert without_common_phrases(rows[:4])[0] == rows[:4]


def test_disguised_problems_are_found_and_all_disguises_are_tried():
    recalls = planted_recall(auditor(), carriers=[CLEAN], seed=1)
    assert set(recalls) == set(DISGUISES)
    assert {recall.num_planted for recall in recalls.values()} == {len(PROBLEMS)}
    for name in ("verbatim", "sentences re-ordered", "Cyrillic look-alikes"):
        assert recalls[name].dropped == len(PROBLEMS), name
    assert recalls["verbatim"].by_level["exact"] == len(PROBLEMS)
    assert "exact" not in recalls["embedded in longer text"].by_level


def test_recall_counts_only_hits_on_what_was_planted(monkeypatch):
    # A disguise that says nothing of the problem but all of another one.
    monkeypatch.setitem(DISGUISES, "verbatim", lambda text, rng, carriers: PROBLEMS[0])
    recall = planted_recall(auditor(), carriers=[], seed=0)["verbatim"]
    assert recall.found == 1


def test_the_same_seed_disguises_alike():
    once, again = (planted_recall(auditor(), carriers=[CLEAN], seed=7) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("name", [name for name in DISGUISES if name != "verbatim"])
def test_a_disguise_changes_the_text(name):
    import random

    text = DISGUISES[name](PROBLEMS[0], random.Random(0), [CLEAN])
    assert text != PROBLEMS[0]
