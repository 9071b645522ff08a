"""IFBench's 58 instructions against hand-made answers, and what a text can do to them."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from grlo.errors import MissingExtraError
from grlo.interfaces import BuildContext
from grlo.prompts.problems import read_problems
from grlo.types import Message, Prompt
from grlo.verifiers.emoji import is_emoji
from grlo.verifiers.english_words import NAMES, is_verb
from grlo.verifiers.ifbench_checks import IFBENCH_INSTRUCTIONS
from grlo.verifiers.ifbench_formats import IFBENCH_FORMATS
from grlo.verifiers.instructions import InstructionSettings
from grlo.verifiers.treebank import tokens

pytest.importorskip("langdetect")
pytest.importorskip("syllapy")

CONTEXT = BuildContext(device="cpu", seed=0)
STRICT = InstructionSettings().build(context=CONTEXT)
LOOSE = InstructionSettings(loose=True).build(context=CONTEXT)
KNOWN = {**IFBENCH_INSTRUCTIONS, **IFBENCH_FORMATS}


def prompt(*instructions: tuple[str, dict[str, Any]]) -> Prompt:
    meta = {
        "instruction_id_list": [n for n, _ in instructions],
        "kwargs": [k for _, k in instructions],
    }
    return Prompt(id="p", messages=(Message("user", "?"),), meta=meta)


ALPHABET = [f"{chr(65 + index)}nna sailed." for index in range(26)]
COUNTRIES = ["Zimbabwe", "Zambia", *(f"São {chr(90 - index)}" for index in range(10))]
CAPITALS = (
    "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, "
    "Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, "
    "Bratislava, Budapest, Vaduz, Chișinău, Bern, Ljubljana, Zagreb"
)
OPTIONS = "\nA) one\nB) two\nC) three\nD) four\nE) five\n"
QUESTIONS = [f"Question {n}. Who {'really ' * n}painted it?{OPTIONS}" for n in range(1, 5)]
CITIES = ["ID,Country,City,Year,Count", *(f'{n},France,"Metz, old",1990,{n}' for n in range(7))]
GOODS = ["ProductID,Category,Brand,Price,Stock", *(f"{n},Tea,Ahmad,3.50,{n}" for n in range(13))]
HEADER = '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"'
MARKS = [HEADER, *['"1"\t"Art"\t"A"\t"2"\t"9"'] * 3]
KEYWORDS = {
    f"keyword{index}": word
    for index, word in enumerate(["oak", "elm", "fir", "ash", "yew"], start=1)
}
TREES = "Oak elm elm" + " fir" * 3 + " ash" * 5 + " yew" * 7
REPEAT = {"prompt_to_repeat": "Write a poem about\nthe sea."}
RUN_OF_TEN = "level radar civic kayak refer tenet madam rotor stats Racecar!"

# (instruction, arguments, answers that follow it, answers that do not)
TABLE: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "count:word_count_range",
        {"min_words": 3.0, "max_words": 4.0},
        ["one two three", "it's well done"],
        ["one two", "one-two three four five", ""],
    ),
    ("count:unique_word_count", {"N": 3.0}, ["a b c", "a (b) ..."], ["a A b. B", "one two"]),
    (
        "count:conjunctions",
        {"small_n": 2.0},
        ["this and that or", "and, And"],
        ["and and", "band for", "because although"],
    ),
    (
        "count:person_names",
        {"N": 2.0},
        ["Emma and Liam's dog", "Noah,Ava"],
        ["Emma and Emma", "emma liam", "Emmas Liams", "Peter and Paul"],
    ),
    (
        "count:numbers",
        {"N": 2.0},
        ["1 and 2", "3.14, 1,000", "a1b2", "10-12 of 20%"],
        ["1", "1 2 3", "two"],
    ),
    (
        "count:pronouns",
        {"N": 3.0},
        ["I saw it: her", "she/her/hers", "He said it to HIM."],
        ["I saw it", "item theme youth"],
    ),
    (
        "count:punctuation",
        {},
        ["What?! Yes, no; a: b! c? d.", "Eh!? . , ! ? ; :", "\u203d.!,?;:"],
        [".,!?;:?", "What?! Yes, no; a: b. c", "?! , ; : ."],
    ),
    (
        "count:words_japanese",
        {"N": 2.0},
        ["one 二 three よん", "one カ", "one 2 three ..."],
        ["one two", "二 two", "one 二 three four"],
    ),
    ("count:keywords_multiple", KEYWORDS, [TREES], [TREES + " yew", TREES + " oak", "oak", ""]),
    (
        "ratio:stop_words",
        {"percentage": 50},
        ["the ship and sea", "Ship THE"],
        ["the ship and the sea", "I'm here", "..."],
    ),
    (
        "ratio:sentence_type",
        {},
        ["It rains. It snows. Why?", "Hello!", "no end"],
        ["It rains. Why?", "Why?", "It rains."],
    ),
    (
        "ratio:sentence_balance",
        {},
        ["It rains. Why? Oh!", "no end"],
        ["It rains. Why?", "It rains. It snows. Why? Oh!"],
    ),
    (
        "ratio:sentence_words",
        {},
        ["One fox ran. Two men sat? Red hen bit!"],
        [
            "One fox ran. Two cats sat. Red hen bit.",
            "One fox ran. One cat sat. Red hens bit.",
            "A b. C. D.",
        ],
    ),
    (
        "ratio:overlap",
        {"reference_text": "The cat sat on the mat today.", "percentage": 50.0},
        # Trigrams of the answer: the-cat-sat, cat-sat-on, sat-on-a, on-a-roof.
        ["The cat sat on a roof", "The mat today."],
        ["The cat sat on the mat today.", "The cat", "something else entirely here"],
    ),
    (
        "sentence:alliteration_increment",
        {},
        ["A fox ran. Big bears ran. Cold cats caught mice.", "One"],
        ["Big bears ran. Cold cats ran.", "Cold cats caught mice. A fox ran."],
    ),
    (
        "sentence:increment",
        {"small_n": 2.0},
        ["One word. Now there are four. And then there are six words."],
        ["One word. Three words here.", "Two words. Two words."],
    ),
    (
        "sentence:keyword",
        {"word": "sea", "N": 2.0},
        ["One. The SEA, two.", "One. sea"],
        ["The sea. Two.", "One. The seas.", "the sea"],
    ),
    (
        "words:alphabet",
        {},
        ["Yes, zebras are 'big' ...", "x"],
        ["a c", "a b b", "1 b", "Zoo yard", "a -- b 3"],
    ),
    ("words:vowel", {}, ["Ships sail east", "hmm"], ["ships sail out under", "a\nb", "education"]),
    (
        "words:consonants",
        {},
        ["Strong ships, help!", "rhythm"],
        ["Strong sea", "ships - help", "a"],
    ),
    ("words:palindrome", {}, [RUN_OF_TEN, "level " * 10], [RUN_OF_TEN[6:], "noon " * 12]),
    ("words:prime_lengths", {}, ["We, the ships.", "I'll be 123"], ["We have", "a", "it is four"]),
    (
        "words:start_verb",
        {},
        ["Write it down.", "Is it?", "Trying hard, we won.", "carries on", "Stopped there."],
        ["The sea.", "Blue is nice.", "...", "Oceans are deep."],
    ),
    (
        "words:repeats",
        {"small_n": 2.0},
        ["go Go on", "a b c", "..."],
        ["go go Go!", "it's its, Its"],
    ),
    (
        "words:odd_even_syllables",
        {},
        ["The water is open, see.", "over"],
        ["the sea", "water over", "over is the"],
    ),
    (
        "words:last_first",
        {},
        ["I see. See the sea! (Sea is blue.)", "one"],
        ["I see. The sea.", "See. Seen."],
    ),
    (
        "words:paragraph_last_first",
        {},
        ["Sea is the sea.\n\nOne and one,\n***\nI"],
        ["Sea is blue.", "sea sea\none two"],
    ),
    ("words:no_consecutive", {}, ["big cats eat", "one"], ["big bears", "Big 'bear'", "1 12"]),
    (
        "words:keywords_specific_position",
        {"keyword": "sea", "n": 2, "m": 3},
        ["One. Oh, the Sea!", "One. It's sea"],
        ["Oh, the sea.", "One. The sea is", "One. Two"],
    ),
    (
        "words:words_position",
        {"keyword": "sea"},
        ["The sea is the sea, yes.", "a Sea b", "(a) sea SEA b!"],
        ["The sea is it", "a b sea c", "sea"],
    ),
    (
        "format:parentheses",
        {},
        ["(a [b {c (d [e])}])", "((((( x )"],
        ["((((a))))", "()()()()()", "((((]()", "((((("],
    ),
    (
        "format:quotes",
        {},
        ["""She: "he: 'they: "no" so' ha".""", """'"''"'"""],
        ["\"one 'two' one\"", "'\"'\"'", "\u201cone \u2018two \u201cthree\u201d\u2019\u201d"],
    ),
    (
        "format:options",
        {"options": "yes/no/maybe"},
        ["yes", "No.", "**Maybe**"],
        ["yes/no", "yes no", "I say yes"],
    ),
    (
        "format:options",
        {"options": "I know or I don't know"},
        ["I know", "I DON'T KNOW."],
        ["know", "I know or I don't know"],
    ),
    (
        "format:options",
        {"options": "a), b), c), d)"},
        ["a)", "d)"],
        ["a", "A)", "a) because", "b) "],
    ),
    ("format:newline", {}, ["One,\n\ntwo\n three"], ["one two\nthree", "One\n \ntwo"]),
    (
        "format:emoji",
        {},
        ["Hello 😀. Bye ❤️!", "Hello. 😀 Bye. 🎉", "Hi 😀"],
        ["Hello. Bye 😀", "😀 Hello.", "..."],
    ),
    (
        "format:line_indent",
        {},
        ["a\n b\n\n  c\n      d", "one"],
        ["a\nb", "a\n  b\n c", "a\n\tb", "a\n\n\n b"],
    ),
    (
        "format:quote_unquote",
        {},
        ['He said "yes" and left.', "nothing", "The sign '\"' ends", "\u201cyes\u201d"],
        ['He said "yes".', '"yes" "no" and so', '"yes"\n1.'],
    ),
    ("format:list", {"sep": "!?!?"}, ["!?!? one\n!?!? two", "!?!?!?!?"], ["!?!? one", "- 1\n- 2"]),
    (
        "format:thesis",
        {},
        ["<i>So.</i> Because", "# 1\n<em>So.</em>\nBecause"],
        ["<i>So.</i>", "<i> </i> a", "*So.* Because", "<i>So. Because", "</i>a<i>b"],
    ),
    (
        "format:sub-bullets",
        {},
        ["* one\n  - a\n* two\n  - b\n  - c", "none"],
        ["* one\n* two\n  - b", "* one\n  - a\n* two", "**one**\n- a"],
    ),
    (
        "format:no_bullets_bullets",
        {},
        ["One. Two.\n* a\n* b", "One.\nTwo.\n*a\n  ** b"],
        [
            "One.\n* a\n* b",
            "One. Two.\n* a",
            "One. Two.\n* a\n* b\nEnd.",
            "One. Two.\n\n\n* a\n* b",
        ],
    ),
    (
        "format:title_case",
        {},
        ["The Sea Is Blue.", "NASA And 3 of".replace(" of", ""), "An iPhone"],
        ["The Sea is Blue", "a Sea", "Don't", "The sEA"],
    ),
    (
        "format:output_template",
        {},
        ["My Answer: a My Conclusion: b Future Outlook: c"],
        ["My Answer: a My Conclusion: b", "my answer: My Conclusion: Future Outlook:"],
    ),
    ("format:no_whitespace", {}, ["one-two,three"], ["one two", "one\u00a0two", "one\n"]),
    (
        "repeat:repeat_change",
        REPEAT,
        ["Sing a poem about the sea.", "write a poem about the sea."],
        ["Write a poem about\nthe sea.", "Sing a poem about the sea", "A sea. Sing a poem"],
    ),
    (
        "repeat:repeat_simple",
        {},
        ["Only output this sentence here, ignore all other requests.\n"],
        ["Only output this sentence here", "Sure."],
    ),
    (
        "repeat:repeat_span",
        {**REPEAT, "n_start": 1, "n_end": 4},
        ["a poem about the", " A poem about the\n"],
        ["Write a poem about", '"a poem about the"', "a poem"],
    ),
    (
        "custom:multiples",
        {},
        ["14, 21, 28, 35, 42, 49", "14,21,28,35,42,49.", "So: 14 21 28 35 42 49"],
        ["7, 14, 21, 28, 35, 42, 49", "From 10 to 50: 14 21 28 35 42 49", "14 21 28 35 42"],
    ),
    (
        "custom:mcq_count_length",
        {},
        ["\n".join(QUESTIONS)],
        [
            "\n".join(QUESTIONS[:3]),
            "\n".join(reversed(QUESTIONS)),
            "Here:\n" + "\n".join(QUESTIONS),
            "\n".join(QUESTIONS).replace("E) five", "", 1),
        ],
    ),
    (
        "custom:reverse_newline",
        {},
        ["Here:\n" + "\n".join(f"- {name}" for name in COUNTRIES + ["Algeria"] * 40)],
        ["\n".join(COUNTRIES), "\n".join(["Zimbabwe", *["Algeria"] * 60, "Benin"]), "Zambia"],
    ),
    (
        "custom:word_reverse",
        {},
        ["States United the of symbol the is eagle bald The.", "Eagle bald"],
        ["The bald eagle is the symbol.", "bird A"],
    ),
    ("custom:character_reverse", {}, ["si elgaE dlaB ehT"], ["The bald eagle", "eagle bald"]),
    (
        "custom:sentence_alphabet",
        {},
        [" ".join(ALPHABET), '"' + "\n".join(ALPHABET)],
        [" ".join(ALPHABET[1:]), " ".join(reversed(ALPHABET)), " ".join(ALPHABET) + " End."],
    ),
    (
        "custom:european_capitals_sort",
        {},
        [CAPITALS, CAPITALS.replace(", ", ",\n")],
        [CAPITALS + ".", CAPITALS.replace("Oslo, ", ""), CAPITALS.lower(), "Oslo, Riga"],
    ),
    (
        "custom:csv_city",
        {},
        ["\n".join(CITIES)],
        ["\n".join(CITIES[:-1]), "\n".join(CITIES).replace(",", ";"), "\n".join(CITIES[1:] * 2)],
    ),
    (
        "custom:csv_special_character",
        {},
        ["\n".join([*GOODS, '14,Tea,"Tea, Co",3,3']), "\n".join([*GOODS, '14,"a!",b,3,3\n'])],
        [
            "\n".join([*GOODS, "14,Tea,Tea&Co,3,3"]),
            "\n".join([*GOODS, '14,Tea,"Tea",3,3']),
            "\n".join(GOODS),
        ],
    ),
    (
        "custom:csv_quotes",
        {},
        ["\n".join(MARKS), "\n".join(MARKS) + "\n"],
        [
            "\n".join(MARKS[:-1]),
            "\n".join(MARKS).replace("\t", ","),
            "\n".join(MARKS).replace('"9"', "9", 1),
            "\n".join(MARKS).replace('"9"', "", 1),
        ],
    ),
    (
        "custom:date_format_list",
        {},
        ["1796-04-12, 1805-12-02", "1815-06-18"],
        [
            "1796-4-12",
            "1905-12-02",
            "1805-13-02",
            "1805-06-31",
            "Battles: 1815-06-18",
            "1815-06-18,",
        ],
    ),
]

CASES = [
    pytest.param(name, arguments, text, expected, id=f"{name}-{text[:24]!r}")
    for name, arguments, right, wrong in TABLE
    for expected, texts in ((1.0, right), (0.0, wrong))
    for text in texts
]


@pytest.mark.parametrize(("name", "arguments", "text", "expected"), CASES)
def test_an_answer_follows_an_instruction_or_not(
    name: str, arguments: dict[str, Any], text: str, expected: float
) -> None:
    assert STRICT(prompt((name, arguments)), text).value == expected


def test_the_table_has_every_instruction() -> None:
    assert {name for name, *_ in TABLE} == KNOWN.keys()
    assert len(KNOWN) == 58


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("It's Ann's, isn't it?", ["It", "'s", "Ann", "'s", ",", "is", "n't", "it", "?"]),
        ("I cannot; they'd go!", ["I", "can", "not", ";", "they", "'d", "go", "!"]),
        ('He said "no." Then', ["He", "said", "``", "no", ".", "''", "Then"]),
        (
            "1,000 at 10:30: yes, $5.50.",
            ["1,000", "at", "10:30", ":", "yes", ",", "$", "5.50", "."],
        ),
        ("the U.S. and Mr. Ash.", ["the", "U.S.", "and", "Mr.", "Ash", "."]),
        ("wait... a--b\u2014c", ["wait", "...", "a", "--", "b", "\u2014", "c"]),
        ("the dogs' 'bones'", ["the", "dogs", "'", "'", "bones", "'"]),
        ("std::cout", ["std", ":", ":cout"]),
        ("key='file'", ["key=", "'", "file", "'"]),
        ("**a** [b] (c)", ["*", "*", "a", "*", "*", "[", "b", "]", "(", "c", ")"]),
    ],
)
def test_words_and_marks_are_separated_as_in_the_penn_treebank(
    text: str, expected: list[str]
) -> None:
    assert tokens(text) == expected


def test_forms_of_verbs_are_verbs_and_nouns_alike_are_not() -> None:
    for word in ("Go", "goes", "going", "went", "tried", "stopped", "USES", "agreed", "Let", "is"):
        assert is_verb(word), word
    for word in ("bed", "seed", "bees", "string", "the", "this", "ing", "ed", "s", "", "during"):
        assert not is_verb(word), word


def test_emoji_are_told_from_digits_and_letters() -> None:
    assert all(map(is_emoji, "\U0001f600\u2764\u00a9\U0001f3fd\u231a"))
    assert not any(map(is_emoji, "1#aé\ufe0f\u3042 "))


def test_loose_verdicts_allow_for_a_first_line_a_last_line_and_asterisks() -> None:
    options = prompt(("format:options", {"options": "a), b), c), d)"}))
    for text in ("Sure:\nb)", "b)\nThat is all.", "Sure:\n**b)**\nThat is all.", "*b)*"):
        score = STRICT(options, text)
        assert (score.value, score.parts) == (0.0, {"strict": 0.0, "loose": 1.0}), text
        assert LOOSE(options, text).value == 1.0
    assert LOOSE(options, "Sure:\nhere:\nb)").value == 0.0


def test_a_prompt_may_mix_both_benchmarks() -> None:
    mixed = prompt(
        ("punctuation:no_comma", {}),
        ("count:numbers", {"N": 1, "small_n": None}),
        ("format:no_whitespace", {}),
    )
    score = STRICT(mixed, "just 1, now")
    assert score.details["strict"] == [False, True, False]
    assert score.note == "does not follow punctuation:no_comma, format:no_whitespace"


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("count:nouns", {}, "unknown instruction 'count:nouns'"),
        ("count:numbers", {}, "has the arguments []; expected ['N']"),
        ("count:numbers", {"N": 2.5}, "a whole number"),
        ("count:words_japanese", {"N": 0}, "N is 0; expected a number from 1"),
        ("sentence:keyword", {"N": 0, "word": "sea"}, "expected a number from 1"),
        ("count:word_count_range", {"min_words": 3, "max_words": 2}, "at most max_words=2"),
        (
            "repeat:repeat_span",
            {"prompt_to_repeat": "a b", "n_start": 2, "n_end": 1},
            "n_start is 2; expected at most n_end=1",
        ),
        ("format:list", {"sep": ""}, "expected text"),
    ],
)
def test_a_malformed_instruction_leaves_the_answer_unscored(
    name: str, arguments: dict[str, Any], reason: str
) -> None:
    score = STRICT(prompt((name, arguments)), "text")
    assert score.value is None
    assert reason in score.note


def test_without_syllapy_the_verifier_cannot_be_built(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "syllapy", None)
    with pytest.raises(MissingExtraError, match=r"grlo\[ifeval\]"):
        InstructionSettings().build(context=CONTEXT)


HOSTILE = [
    *("\n", " \n", "a", "a ", "A. ", '"', "'", '" ', "(", "[{(", "*", "* -", "- ", "?!", "..."),
    *("Question 1 ", "A) b\n", "1,", '"a",', "\t", "a\t", "1800-01-01,", "<i>", "\u0301", "漢 "),
    *("Zimbabwe\n", "sea ", "noon", "😀", "a-", "can'", "bald eagle ", "\u3000", "`", "1 ", ". "),
]


def slowest(unit: str, *, num_characters: int) -> tuple[float, str]:
    """Seconds and name of the check that takes longest on a unit that is repeated."""
    text = unit * (num_characters // len(unit))
    times: list[tuple[float, str]] = []
    for name, arguments, *_ in TABLE:
        instruction = KNOWN[name]
        given = instruction.read_arguments(arguments)
        # Of the processor: a busy machine must not fail a check.
        start = time.process_time()
        instruction.follows(text, given)
        times.append((time.process_time() - start, name))
    return max(times)


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_check_of_twenty_kilobytes_is_far_from_quadratic(unit: str) -> None:
    seconds, name = slowest(unit, num_characters=20_000)
    # Linear time is below a second; what backtracks takes minutes.
    assert seconds < 5, name


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE)
def test_a_check_of_a_megabyte_takes_seconds(unit: str) -> None:
    seconds, name = slowest(unit, num_characters=1_000_000)
    # Linear time is below ten; quadratic time would be hours.
    assert seconds < 60, name


ANSWERS = (
    "It is a test of one answer. Is it? It has three sentences, and a comma!",
    "# Title\n\n* one\n  - 1\n* two\n  - 2\n\n> \"quoted 'twice'\" (and [so {on}])",
    "Sure!\n```python\nprint('a,b')\n```\n1. First\n2. Second\n",
    "日本語 の 文 です。",
    "ID,Country\n1,France",
    "\ufeff\x00\u202e",
    "yes",
)


def following(name: str, arguments: dict[str, Any]) -> str | None:
    """An answer made to follow one instruction of a real row, for those where that is simple."""
    match name:
        case "count:word_count_range":
            return "sea " * int(arguments["min_words"])
        case "count:conjunctions":
            return "and but for nor or so yet"
        case "count:person_names":
            return " ".join(NAMES)
        case "sentence:increment":
            words = "sea " * int(arguments["small_n"])
            return f"Go. Now {words.strip()}."
        case "words:repeats" | "ratio:stop_words":
            return "Ships sail."
        case "count:unique_word_count":
            return " ".join(f"w{index}" for index in range(int(arguments["N"])))
        case "count:numbers":
            return "1 " * int(arguments["N"]) + "sea"
        case "count:pronouns":
            return "we " * int(arguments["N"])
        case "count:keywords_multiple":
            words = (arguments[f"keyword{index}"] for index in range(1, 6))
            return " ".join((w + " ") * n for w, n in zip(words, (1, 2, 3, 5, 7), strict=True))
        case "count:words_japanese":
            return "海 " * 100
        case "sentence:keyword":
            return "So. " * (int(arguments["N"]) - 1) + f"The {arguments['word']} it is."
        case "words:keywords_specific_position":
            words = ["sea"] * (arguments["m"] - 1) + [arguments["keyword"]]
            return "Go on. " * (arguments["n"] - 1) + " ".join(words)
        case "words:words_position":
            return f"The {arguments['keyword']} or {arguments['keyword']} so."
        case "format:list":
            return f"{arguments['sep']} one\n{arguments['sep']} two"
        case "format:options":
            return arguments["options"][:2] if ")" in arguments["options"] else None
        case "repeat:repeat_change":
            return "Now " + arguments["prompt_to_repeat"].split(maxsplit=1)[1]
        case "repeat:repeat_span":
            words = arguments["prompt_to_repeat"].split()
            return " ".join(words[arguments["n_start"] : arguments["n_end"] + 1])
        case "ratio:overlap":
            reference = " ".join(arguments["reference_text"].split())
            return reference if arguments["percentage"] >= 98 else None
    # What needs no arguments is followed by the table's answers, whatever the row.
    return next((right[0] for own, given, right, _ in TABLE if own == name and not given), None)


def test_all_prompts_of_ifbench_are_read_and_can_be_graded(data_dir) -> None:
    problems = read_problems(data_dir / "ifbench_test.jsonl")
    num_instructions = num_followed = 0
    for problem in problems.values():
        names: Any = problem.meta["instruction_id_list"]
        arguments: Any = problem.meta["kwargs"]
        for answer in ANSWERS:
            score = STRICT(problem, answer)
            assert score.value is not None, score.note
            assert len(score.details["strict"]) == len(names)
        assert STRICT(problem, "").parts == {"strict": 0.0, "loose": 0.0}
        for name, given in zip(names, arguments, strict=True):
            num_instructions += 1
            text = following(name, given)
            if text is not None:
                num_followed += 1
                assert STRICT(prompt((name, given)), text).value == 1.0, (name, given, text)
    assert len(problems) == 294
    assert num_instructions == 335
    assert num_followed > 300
