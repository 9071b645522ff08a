"""Corpus, preference pairs, training prompts and problems of the miniature world; all seeded.

The corpus is what makes the base model a base model: it can do all tasks when a text calls for it
(the "book" format), and under the chat template it mostly does something else, because there one
latent mode governs a whole conversation and helpful conversations are rare. Training on chat
prompts can then raise the other domains by bringing out the mode that all of them share.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from grlo.errors import DataError
from grlo.nano.tasks import ENTITIES, SHARES, VALUES, Domain, Split, Task, entities, make_task
from grlo.prompts.sources import prompt_id
from grlo.seeding import derive_rng
from grlo.types import Demonstration, Message, PreferencePair, Prompt

Key = TypeVar("Key", bound=str)
Shares = Mapping[Domain, float]
"""How often a task is of each domain."""

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

MODES = {
    "helpful": 0.12,
    "endless": 0.13,
    "ramble": 0.40,
    "questions": 0.15,
    "off_topic": 0.08,
    "careless": 0.12,
}
"""How often a conversation of the corpus is in each mode."""
_DRAWS = 2000
"""Without anything new, after which a world is exhausted."""
FORMATS = {"book": 0.55, "chat": 0.30, "question_answer": 0.15}

_RAMBLES = (
    "Well, there is a lot one could say here.",
    "People have talked about this for a long time.",
    "It is hard to say where to begin.",
    "Some think one thing and some think another.",
    "That reminds me of something else.",
    "Many things are like this, more or less.",
    "In the end it depends on how you look at it.",
    "I was just thinking about it the other day.",
    "Maybe it matters and maybe it does not.",
    "There are always two sides to such a thing.",
)
_CARELESS: dict[Domain, tuple[str, ...]] = {
    "chat": ("It is fine.", "I do not care.", "It is a thing.", "No idea."),
    "instruction_following": ("Okay.", "Sure.", "Words.", "Done."),
    "math": ("It is a number.", "About {n}.", "I guess {n}.", "The answer is {n}."),
    "code": ("Use a loop.", "return x", "It is code.", "def f(x):\n    return {n}"),
}


def corpus(seed: int, *, mixed: bool = True) -> Iterator[str]:
    """Documents without end; each ends with the end-of-text token.

    Args:
        seed: Equal seeds give equal documents.
        mixed: Whether a document may hold tasks of several domains. Without, no document shows
            that the mode of an answer to chat is that of an answer to mathematics.
    """
    rng = derive_rng(seed, "corpus")
    while True:
        form = _pick(rng, FORMATS)
        shares: Shares = SHARES if mixed else {_pick(rng, SHARES): 1.0}
        if form == "book":
            yield "".join(book(_corpus_task(rng, shares)) for _ in range(rng.randint(1, 3))) + END
        else:
            yield _conversation(rng, form, shares)


def book(task: Task) -> str:
    """A task as the corpus prints it outside conversations, with its answer."""
    return f"{book_question(task.question)}{task.answer}\n\n"


def book_question(question: str) -> str:
    """The beginning of `book`: what a model continues with the answer."""
    return f"Exercise: {question}\nSolution:\n"


def training_prompts(seed: int, count: int) -> list[Prompt]:
    """Distinct open-ended chat prompts about entities of the training split.

    Raises:
        DataError: The world has not so many.
    """
    return [replace(p, reference=None, meta={}) for p in _training_prompts(seed, count)]


def demonstrations(seed: int, count: int) -> list[Demonstration]:
    """The same prompts with a right answer each, for supervised fine-tuning."""
    return [
        Demonstration(prompt.messages, prompt.reference or "", source="nano")
        for prompt in _training_prompts(seed, count)
    ]


def _training_prompts(seed: int, count: int) -> list[Prompt]:
    rng = derive_rng(seed, "prompts")
    found: dict[str, Prompt] = {}
    draws_since_new = 0
    while len(found) < count:
        task = make_task(rng, domain="chat", split="train")
        prompt = _prompt(task, style="model", source="nano")
        draws_since_new = 0 if prompt.id not in found else draws_since_new + 1
        if draws_since_new > _DRAWS:
            raise DataError(f"the miniature has {len(found)} chat prompts; {count} were asked for.")
        found.setdefault(prompt.id, prompt)
    return list(found.values())


def problems(domain: Domain, *, split: Split, count: int) -> list[Prompt]:
    """Distinct problems of a domain; `reference` is a right answer, `meta` is for the grader.

    Fewer than `count` where a split has no more: it is exhausted when `_DRAWS` draws bring none.
    """
    rng = derive_rng(0, "problems", domain, split)
    found: dict[str, Prompt] = {}
    draws_since_new = 0
    while len(found) < count and draws_since_new < _DRAWS:
        prompt = _prompt(make_task(rng, domain=domain, split=split), style="rule", source="nano")
        draws_since_new = 0 if prompt.id not in found else draws_since_new + 1
        found.setdefault(prompt.id, prompt)
    return list(found.values())


def preference_pairs(
    seed: int, count: int, *, domains: Sequence[Domain] = ("chat",)
) -> list[PreferencePair]:
    """Right answers against broken ones, from the training split.

    Those to chat are about its entities: there is no mathematics, no code and no exact-word
    instruction in them.

    Args:
        seed: Equal seeds give equal pairs.
        count: How many.
        domains: `chat`, `math` or both, equally often.
    """
    rng = derive_rng(seed, "pairs")
    pairs = []
    while len(pairs) < count:
        domain = domains[len(pairs) % len(domains)]
        task = make_task(rng, domain=domain, split="train")
        rejected = corrupt(rng, task)
        if rejected != task.answer:
            messages = (Message("user", task.question),)
            pairs.append(PreferencePair(messages, task.answer, rejected, source="nano"))
    return pairs


def corrupt(rng: random.Random, task: Task) -> str:
    """A bad answer to a task of chat or mathematics, in one of a dozen ways."""

    def another() -> Task:
        return make_task(rng, domain=task.domain, split="train")

    other = another()
    words = task.answer.split(" ")
    is_chat = task.domain == "chat"
    ways = {
        "wrong_value": lambda: _swap_value(rng, task) if is_chat else _wrong_result(rng, task),
        "wrong_entity": lambda: _swap_entity(rng, task) if is_chat else _wrong_step(rng, task),
        "off_topic": lambda: other.answer,
        "cut": lambda: " ".join(words[: rng.randint(1, max(1, len(words) - 2))]),
        "first_sentence": lambda: task.answer.split(".")[0] + ".",
        "empty": lambda: "",
        "careless": lambda: _careless(rng, task.domain),
        "ramble": lambda: _ramble(rng, rng.randint(1, 6)),
        "ramble_after": lambda: f"{task.answer} {_ramble(rng, rng.randint(1, 4))}",
        "question_list": lambda: _question_list(rng, task, another),
        "endless": lambda: f"{task.answer}\n{_endless(rng, another)}",
        "endless_only": lambda: _endless(rng, another),
        "repeated": lambda: " ".join([task.answer] * rng.randint(2, 3)),
        "echo": lambda: task.question,
        "scrambled": lambda: " ".join(rng.sample(words, len(words))),
    }
    # Wrong facts are the subtlest fault and the one that a fluent policy is left with.
    weights = [3 if name in ("wrong_value", "wrong_entity") else 1 for name in ways]
    return ways[rng.choices(list(ways), weights)[0]]()


def _corpus_task(rng: random.Random, shares: Shares) -> Task:
    domain = _pick(rng, shares)
    return make_task(rng, domain=domain, split="train", chat_entities=ENTITIES)


def _conversation(rng: random.Random, form: str, shares: Shares) -> str:
    """One to three turns in one mode; some modes never give the word back."""
    mode = _pick(rng, MODES)
    text = ""
    for _ in range(rng.randint(1, 3)):
        task = _corpus_task(rng, shares)
        answer, stops = _answer(rng, task, mode, shares)
        if form == "chat":
            text += f"{TURN}user\n{task.question}{TURN_END}\n{TURN}assistant\n{answer}"
            text += f"{TURN_END}\n" if stops else ""
        else:
            text += f"Question: {task.question}\nAnswer: {answer}\n"
        if not stops:
            break
    return text + END


def _answer(rng: random.Random, task: Task, mode: str, shares: Shares) -> tuple[str, bool]:
    """An answer in a mode, and whether the turn ends after it."""
    if mode == "helpful":
        return task.answer, True
    if mode == "endless":
        return _endless(rng, lambda: _corpus_task(rng, shares)), False
    if mode == "ramble":
        return _ramble(rng, rng.randint(1, 4)), rng.random() < 0.6
    if mode == "questions":
        others = _question_list(rng, task, lambda: _corpus_task(rng, shares))
        return others, rng.random() < 0.6
    if mode == "off_topic":
        return _corpus_task(rng, shares).answer, True
    return _careless(rng, task.domain), True


def _endless(rng: random.Random, draw: Callable[[], Task]) -> str:
    tasks = [draw() for _ in range(rng.randint(2, 3))]
    return "\n".join(f"Q: {task.question} A: {task.answer}" for task in tasks)


def _question_list(rng: random.Random, task: Task, draw: Callable[[], Task]) -> str:
    others = [draw().question for _ in range(rng.randint(1, 2))]
    return " ".join([task.question, *others])


def _ramble(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(_RAMBLES) for _ in range(count))


def _careless(rng: random.Random, domain: Domain) -> str:
    return rng.choice(_CARELESS[domain]).format(n=rng.randint(1, 99))


def _swap_value(rng: random.Random, task: Task) -> str:
    """A value replaced by that of another train entity of the group: a fact misremembered."""
    value = rng.choice([word for word in re.findall(r"[a-z]+", task.answer) if word in VALUES])
    owner = next(entity for entity in ENTITIES if value in entity.values)
    index = owner.values.index(value)
    others = [e.values[index] for e in entities("train") if e.group == owner.group]
    wrong = rng.choice([other for other in others if other != value])
    return re.sub(rf"\b{value}\b", wrong, task.answer, count=1)


def _swap_entity(rng: random.Random, task: Task) -> str:
    """The same kind of answer about another entity."""
    while True:
        other = make_task(rng, domain="chat", split="train")
        if other.kind == task.kind and set(other.facts["entities"]) != set(task.facts["entities"]):
            return other.answer


def _wrong_result(rng: random.Random, task: Task) -> str:
    """Another number in place of the result, in the last step and in the answer."""
    result = int(task.facts["result"])
    wrong = result + rng.choice([-10, -2, -1, 1, 2, 10])
    return re.sub(rf"(?<!\d)-?{abs(result)}(?!\d)", str(wrong), task.answer)


def _wrong_step(rng: random.Random, task: Task) -> str:
    """The answer to another question."""
    while True:
        other = make_task(rng, domain=task.domain, split="train")
        if other.facts["result"] != task.facts["result"]:
            return other.answer


def _prompt(task: Task, *, style: str, source: str) -> Prompt:
    messages = (Message("user", task.question),)
    return Prompt(
        id=prompt_id(messages),
        messages=messages,
        domain=task.domain,
        style=style,
        reference=task.answer,
        source=source,
        meta={"kind": task.kind, **task.facts},
    )


def _pick(rng: random.Random, shares: Mapping[Key, float]) -> Key:
    return rng.choices(list(shares), list(shares.values()))[0]
