"""What a prompt set consists of: tasks, turns, lengths, languages, demands, duplicates, topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from grlo.prompts.composition import CATEGORIES, TASKS, Composition, classify
from grlo.prompts.duplicates import near_duplicate_groups
from grlo.prompts.embeddings import SentenceEncoder
from grlo.prompts.examples import Example
from grlo.prompts.languages import language_of
from grlo.prompts.text import words
from grlo.prompts.topics import find_topics, topic_map

FLAGS = ("reasoning", "mathematics", "code", "constraints")
"""Demands of a prompt, of which it may have several."""
LENGTHS = (10, 25, 50, 100, 200, 500, 1000)
"""Upper ends of bins of words."""
UNSURE = 0.5
"""Confidence of a task below which it is called unsure."""
_CHARACTERS = 2000
_NEAR = 0.8


@dataclass(frozen=True)
class Topic:
    """A cluster of prompts."""

    name: str
    rows: int
    example: str


@dataclass(frozen=True)
class Description:
    """All that is known of a set without reading it."""

    num_rows: int
    kinds: Mapping[str, int]
    tasks: Mapping[str, int]
    """By task of `grlo.prompts.composition.TASKS`."""
    categories: Mapping[str, int]
    flags: Mapping[str, int]
    turns: Mapping[int, int]
    """By number of the user's turns."""
    words: Mapping[str, int]
    """Smallest, quartiles and largest number of words of the user's turns."""
    lengths: Mapping[str, int]
    """Rows by bins of words."""
    languages: Mapping[str, int]
    confidence: Mapping[str, float]
    """Of the tasks: mean, and the share below `UNSURE`."""
    confidence_by_task: Mapping[str, float]
    exact_duplicates: int
    """Rows with the words of an earlier one."""
    near_groups: Sequence[Sequence[int]]
    """Rows that are nearly equal (Jaccard similarity of 3-grams of 0.8 or more), the largest groups
    first; equal rows among them."""
    topics: Sequence[Topic]
    topic_method: str
    points: Sequence[tuple[float, float, str]] = field(default_factory=tuple)
    """A sample of rows on the map of topics, with their tasks."""

    @property
    def near_duplicates(self) -> int:
        """Rows that would go if one of each group stayed."""
        return sum(len(group) - 1 for group in self.near_groups)

    def as_json(self) -> dict[str, Any]:
        """Without the points of the map."""
        table = {**asdict(self), "near_duplicates": self.near_duplicates}
        table["near_groups"] = [list(group) for group in self.near_groups[:100]]
        table["turns"] = {str(number): count for number, count in self.turns.items()}
        del table["points"]
        return table


def describe(
    examples: Iterable[Example],
    *,
    seed: int = 0,
    encoder: SentenceEncoder | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Description:
    """Describes a set.

    Args:
        examples: Its rows, read once.
        seed: Of topics and their map.
        encoder: Sentence embeddings for topics; None takes words.
        advance: Told the number of rows read.

    Raises:
        ValueError: There are no rows.
        MissingExtraError: Needs the extra `curate`.
    """
    compositions: list[Composition] = []
    kinds, languages = Counter[str](), Counter[str]()
    tokens: list[list[str]] = []
    texts: list[str] = []
    seen: set[bytes] = set()
    for example in examples:
        text = asked(example)
        compositions.append(classify(example.messages))
        kinds[example.kind] += 1
        languages[language_of(text)[0]] += 1
        own = words(" ".join([text, *example.answers]))
        tokens.append(own)
        seen.add(blake2b(" ".join(own).encode(), digest_size=16).digest())
        texts.append(text[:_CHARACTERS])
        advance(len(texts))
    if not texts:
        raise ValueError("there are no rows to describe")
    topics = find_topics(texts, num_topics=0, seed=seed, encoder=encoder)
    members: dict[int, list[int]] = {}
    for index, number in enumerate(topics.cluster.tolist()):
        members.setdefault(number, []).append(index)
    chosen, places = topic_map(topics, seed=seed)
    numbers = sorted(composition.num_words for composition in compositions)
    tasks = Counter(composition.task for composition in compositions)
    return Description(
        num_rows=len(texts),
        kinds=dict(kinds),
        tasks={task: tasks[task] for task in TASKS},
        categories={name: sum(own.category == name for own in compositions) for name in CATEGORIES},
        flags={name: sum(getattr(own, name) for own in compositions) for name in FLAGS},
        turns=dict(sorted(Counter(own.num_turns for own in compositions).items())),
        words={
            name: numbers[min(len(numbers) - 1, int(share * len(numbers)))]
            for name, share in (("min", 0), ("25 %", 0.25), ("median", 0.5), ("75 %", 0.75))
        }
        | {"max": numbers[-1]},
        lengths=_binned(numbers),
        languages=dict(languages.most_common()),
        confidence={
            "mean": sum(own.confidence for own in compositions) / len(compositions),
            "unsure": sum(own.confidence < UNSURE for own in compositions) / len(compositions),
        },
        confidence_by_task={
            task: sum(own.confidence for own in compositions if own.task == task) / count
            for task, count in tasks.items()
        },
        exact_duplicates=len(texts) - len(seen),
        near_groups=sorted(near_duplicate_groups(tokens, threshold=_NEAR), key=lambda g: -len(g)),
        topics=[
            Topic(topics.names[number], len(own), texts[own[0]][:200])
            for number, own in sorted(members.items(), key=lambda item: -len(item[1]))
        ],
        topic_method=topics.method,
        points=[
            (float(x), float(y), compositions[index].task)
            for index, (x, y) in zip(chosen.tolist(), places.tolist(), strict=True)
        ],
    )


def asked(example: Example) -> str:
    """What the user says, all turns."""
    turns = [message.content for message in example.messages if message.role == "user"]
    return "\n\n".join(turns)


def _binned(numbers: Sequence[int]) -> dict[str, int]:
    names = [f"up to {end}" for end in LENGTHS] + [f"above {LENGTHS[-1]}"]
    counts = Counter(sum(number > end for end in LENGTHS) for number in numbers)
    return {name: counts[index] for index, name in enumerate(names)}
