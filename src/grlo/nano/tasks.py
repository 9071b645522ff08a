"""Questions of the miniature world and their right answers, in four domains.

Every task belongs to one split by a hash of what it is about: `train`, `dev` or `eval`. Operands,
functions, instructions of `dev` and `eval` never occur in the corpus; their entities
do (a model must have read a fact to know it) but never in training prompts or preference pairs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Domain = Literal["chat", "instruction_following", "math", "code"]
Split = Literal["train", "dev", "eval"]

SHARES: dict[Domain, float] = {
    "chat": 0.40,
    "instruction_following": 0.12,
    "math": 0.30,
    "code": 0.18,
}
"""How much of the corpus each domain makes up."""


@dataclass(frozen=True)
class Task:
    """A question, one right answer in words, and what a grader needs."""

    domain: Domain
    kind: str
    question: str
    answer: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entity:
    """A thing with three facts."""

    name: str
    group: str
    values: tuple[str, str, str]


# One clause per fact and group; {v} is the value.
CLAUSES = {
    "animal": ("is {v}", "lives in the {v}", "eats {v}"),
    "food": ("tastes {v}", "comes from {v}", "goes well with {v}"),
    "place": ("is {v}", "lies near the {v}", "is known for {v}"),
}
# One question per fact and group; {n} is the name.
ASKS = {
    "animal": ("What color is the {n}?", "Where does the {n} live?", "What does the {n} eat?"),
    "food": ("How does {n} taste?", "Where does {n} come from?", "What goes well with {n}?"),
    "place": ("How is the {n}?", "Where does the {n} lie?", "What is the {n} known for?"),
}

_FACTS = {
    "animal": {
        "fox": "red forest berries",
        "owl": "brown barn mice",
        "frog": "green pond flies",
        "bear": "black cave honey",
        "swan": "white lake grass",
        "crab": "orange beach shells",
        "wolf": "grey hills deer",
        "mole": "dark garden worms",
        "lion": "golden plains zebras",
        "seal": "silver bay fish",
    },
    "food": {
        "bread": "plain farms butter",
        "honey": "sweet hives tea",
        "lemon": "sour groves water",
        "pepper": "hot fields rice",
        "cheese": "salty dairies wine",
        "cocoa": "bitter jungles milk",
        "plum": "juicy orchards cream",
        "mint": "fresh meadows lamb",
        "toast": "dry kitchens jam",
        "broth": "rich pots noodles",
    },
    "place": {
        "castle": "old river towers",
        "market": "loud station spices",
        "desert": "empty border dunes",
        "harbor": "busy coast ships",
        "village": "quiet church bells",
        "island": "sunny reef palms",
        "museum": "huge park statues",
        "temple": "calm gate lanterns",
        "valley": "foggy ridge vineyards",
        "factory": "dirty canal engines",
    },
}
_HELD_OUT: dict[Split, frozenset[str]] = {
    "dev": frozenset({"seal", "broth", "factory"}),
    "eval": frozenset(
        {"wolf", "mole", "lion", "cheese", "mint", "toast", "museum", "temple", "valley"}
    ),
}

ENTITIES: tuple[Entity, ...] = tuple(
    Entity(name, group, tuple(values.split()))  # pyright: ignore[reportArgumentType]
    for group, names in _FACTS.items()
    for name, values in names.items()
)
BY_NAME = {entity.name: entity for entity in ENTITIES}
VALUES = frozenset(value for entity in ENTITIES for value in entity.values)

WORDS = (
    "apple",
    "chair",
    "cloud",
    "stone",
    "paper",
    "candle",
    "window",
    "bridge",
    "ribbon",
    "pencil",
    "button",
    "kettle",
    "basket",
    "mirror",
    "saddle",
    "pillow",
    "hammer",
    "bottle",
    "carpet",
    "ladder",
    "marble",
    "feather",
    "magnet",
    "pocket",
    "anchor",
    "whistle",
    "lantern",
    "blanket",
    "spoon",
    "wagon",
    "copper",
    "violin",
    "tunnel",
    "barrel",
    "needle",
    "planet",
    "rocket",
    "sponge",
    "thread",
    "velvet",
)
NAMES = ("Tom", "Ann", "Ben", "Eva", "Max", "Zoe", "Sam", "Ida")
THINGS = ("apples", "coins", "books", "cards", "shells", "stamps")


def entities(split: Split) -> tuple[Entity, ...]:
    """The entities of a split."""
    held_out = _HELD_OUT["dev"] | _HELD_OUT["eval"]
    if split == "train":
        return tuple(entity for entity in ENTITIES if entity.name not in held_out)
    return tuple(entity for entity in ENTITIES if entity.name in _HELD_OUT[split])


def split_of(*key: object) -> Split:
    """Split of a task by what it is about: 8 % `eval`, 4 % `dev`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    number = int.from_bytes(digest[:4], "big") % 100
    return "eval" if number < 8 else "dev" if number < 12 else "train"


def make_task(
    rng: random.Random,
    *,
    domain: Domain,
    split: Split,
    chat_entities: tuple[Entity, ...] | None = None,
) -> Task:
    """A random task of a domain and split.

    Args:
        rng: Where randomness comes from.
        domain: What kind of task.
        split: Which operands, functions, words or entities it may use.
        chat_entities: Entities of chat tasks instead of those of the split; the corpus takes all.
    """
    if domain == "chat":
        return _chat(rng, chat_entities or entities(split))
    while True:  # Operands, functions and words are drawn until they belong to the split.
        task, key = _MAKERS[domain](rng)
        if split_of(domain, *key) == split:
            return task


# Chat ---------------------------------------------------------------------------------------------


def _the(entity: Entity) -> str:
    return entity.name if entity.group == "food" else f"the {entity.name}"


def _clause(entity: Entity, index: int) -> str:
    return CLAUSES[entity.group][index].format(v=entity.values[index])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _chat(rng: random.Random, choices: tuple[Entity, ...]) -> Task:
    kind = rng.choice(("fact", "describe", "list", "compare", "story", "describe_two"))
    first = rng.choice(choices)
    if kind == "fact":
        index = rng.randrange(3)
        question = ASKS[first.group][index].format(n=first.name)
        return _chat_task(
            kind, question, _sentence(f"{_the(first)} {_clause(first, index)}"), [first], [index]
        )
    if kind == "describe":
        question = rng.choice(("Tell me about {n}.", "Describe {n}.", "What is {n} like?"))
        it = [_sentence(f"it {_clause(first, index)}") for index in (1, 2)]
        answer = " ".join([_sentence(f"{_the(first)} {_clause(first, 0)}"), *it])
        return _chat_task(kind, question.format(n=_the(first)), answer, [first], [0, 1, 2])
    if kind == "list":
        question = rng.choice(("List three facts about {n}.", "Give me three facts about {n}."))
        lines = [f"{index + 1}. {_sentence(f'it {_clause(first, index)}')}" for index in range(3)]
        return _chat_task(
            kind, question.format(n=_the(first)), "\n".join(lines), [first], [0, 1, 2]
        )
    if kind == "story":
        question = rng.choice(("Write a short story about {n}.", "Tell me a story about {n}."))
        answer = (
            f"Once a child dreamed of {_the(first)}. {_sentence(f'it {_clause(first, 0)}')} "
            f"The child learned that it {_clause(first, 2)} and smiled."
        )
        return _chat_task(kind, question.format(n=_the(first)), answer, [first], [0, 2])
    second = rng.choice([e for e in choices if e.group == first.group and e != first] or [first])
    if second == first:
        return _chat(rng, choices)
    if kind == "compare":
        question = rng.choice(("Compare {a} and {b}.", "How do {a} and {b} differ?"))
        parts = [
            _sentence(
                f"{_the(first)} {_clause(first, index)} but {_the(second)} {_clause(second, index)}"
            )
            for index in (0, 1)
        ]
        answer, indices = " ".join(parts), [0, 1]
    else:
        question = rng.choice(("Describe {a} and {b}.", "Tell me about {a} and {b}."))
        answer, indices = (
            " ".join(
                _sentence(f"{_the(e)} {_clause(e, 0)} and {_clause(e, 2)}") for e in (first, second)
            ),
            [0, 2],
        )
    question = question.format(a=_the(first), b=_the(second))
    return _chat_task(kind, question, answer, [first, second], indices)


def _chat_task(
    kind: str, question: str, answer: str, about: list[Entity], indices: list[int]
) -> Task:
    facts = {"entities": [entity.name for entity in about], "values": indices}
    return Task("chat", kind, question, answer, facts)


# Instruction following ----------------------------------------------------------------------------


def _instruction(rng: random.Random) -> tuple[Task, tuple[object, ...]]:
    word, other = rng.sample(WORDS, 2)
    kind = rng.choice(("repeat", "end", "start", "brackets"))
    if kind == "repeat":
        times = rng.randint(2, 5)
        question, answer = f"Repeat the word {word} {times} times.", " ".join([word] * times)
        return _instruction_task(kind, question, answer, word=word, times=times), (kind, word)
    if kind == "end":
        question, answer = f"Say {other} and end with {word}.", f"Here is {other} and then {word}"
    elif kind == "start":
        question, answer = f"Say {other} and start with {word}.", f"{word} and then comes {other}"
    else:
        question, answer = f"Write {word} in brackets.", f"[{word}]"
    return _instruction_task(kind, question, answer, word=word, other=other), (kind, word)


def _instruction_task(kind: str, question: str, answer: str, **facts: object) -> Task:
    return Task("instruction_following", kind, question, answer, facts)


# Mathematics --------------------------------------------------------------------------------------


def _math(rng: random.Random) -> tuple[Task, tuple[object, ...]]:
    a, b = rng.randint(10, 89), rng.randint(10, 89)
    if rng.random() < 0.5:
        op, result, steps = "+", a + b, _add_steps(a, b)
    else:
        a, b = max(a, b), min(a, b)
        op, result, steps = "-", a - b, _subtract_steps(a, b)
    if rng.random() < 0.5:
        kind, question = "plain", rng.choice(("What is {a} {op} {b}?", "Compute {a} {op} {b}."))
        question = question.format(a=a, op=op, b=b)
    else:
        kind, name, thing = "word", rng.choice(NAMES), rng.choice(THINGS)
        change = "gets" if op == "+" else "loses"
        question = f"{name} has {a} {thing} and {change} {b}. How many {thing} now?"
    task = Task("math", kind, question, f"{steps} The answer is {result}.", {"result": result})
    return task, (a, op, b)


def _add_steps(a: int, b: int) -> str:
    (ta, ua), (tb, ub) = divmod(a, 10), divmod(b, 10)
    carry = (ua + ub) // 10
    if carry:
        return f"{ua} + {ub} = {ua + ub}, carry 1. {ta} + {tb} + 1 = {ta + tb + 1}."
    return f"{ua} + {ub} = {ua + ub}. {ta} + {tb} = {ta + tb}."


def _subtract_steps(a: int, b: int) -> str:
    (ta, ua), (tb, ub) = divmod(a, 10), divmod(b, 10)
    if ua < ub:
        return f"{ua + 10} - {ub} = {ua + 10 - ub}, borrow 1. {ta} - {tb} - 1 = {ta - tb - 1}."
    return f"{ua} - {ub} = {ua - ub}. {ta} - {tb} = {ta - tb}."


# Code ---------------------------------------------------------------------------------------------

_OPERATIONS = {
    "adds {n}": "x + {n}",
    "subtracts {n}": "x - {n}",
    "multiplies by {n}": "x * {n}",
}


def _code(rng: random.Random) -> tuple[Task, tuple[object, ...]]:
    count = rng.choice((1, 2, 2))
    chosen = [(rng.choice(list(_OPERATIONS)), rng.randint(2, 19)) for _ in range(count)]
    words = " and then ".join(phrase.format(n=n) for phrase, n in chosen)
    expression = "x"
    for phrase, n in chosen:
        inner = expression if expression == "x" else f"({expression})"
        expression = _OPERATIONS[phrase].format(n=n).replace("x", inner)
    asks = rng.choice(("Write a function f that {w}.", "Write Python code for f that {w}."))
    task = Task(
        "code",
        "one" if count == 1 else "two",
        asks.format(w=words),
        f"def f(x):\n    return {expression}",
        {"operations": [[phrase.split()[0], n] for phrase, n in chosen]},
    )
    return task, tuple(chosen)


_MAKERS: dict[Domain, Callable[[random.Random], tuple[Task, tuple[object, ...]]]] = {
    "instruction_following": _instruction,
    "math": _math,
    "code": _code,
}
