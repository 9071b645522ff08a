"""Which rows make up a prompt set of a given size and composition, spread over topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grlo.seeding import derive_rng


@dataclass(frozen=True)
class Candidate:
    """A row that may be chosen."""

    category: str
    source: str
    topic: int
    is_guess: bool = False
    """Nothing in it spoke for its category."""


@dataclass(frozen=True)
class Selection:
    """What was chosen."""

    chosen: tuple[int, ...]
    """Positions of the candidates, ascending."""
    wanted: Mapping[str, int]
    """Rows of each category that the shares ask for."""
    available: Mapping[str, int]
    taken: Mapping[str, int]


def select(
    candidates: Sequence[Candidate],
    *,
    size: int,
    shares: Mapping[str, float],
    weights: Mapping[str, float],
    seed: int,
) -> Selection:
    """Chooses `size` rows, or all where there are not more.

    Each category gets its share, in it each source its weight, and of both the topics take turns,
    so that rare topics come before the second row of frequent ones. Rows whose category is a guess
    are taken when there are no others. Where a category has too few
    rows the others fill up in proportion to their shares, and so do sources in a category.

    Args:
        candidates: Rows to choose from.
        size: Number of rows to choose.
        shares: Category -> share; rows of other categories are never chosen.
        weights: Source -> weight.
        seed: Decides between rows of the same category, source and topic, and which topic begins.
    """
    members: dict[str, list[int]] = {category: [] for category in shares}
    for index, candidate in enumerate(candidates):
        if candidate.category in members:
            members[candidate.category].append(index)
    available = {category: len(own) for category, own in members.items()}
    quota = apportion(size, shares, available)
    chosen: list[int] = []
    for category, own in members.items():
        by_source: dict[str, list[int]] = defaultdict(list)
        for index in own:
            by_source[candidates[index].source].append(index)
        number = apportion(
            quota[category],
            {source: weights[source] for source in by_source},
            {source: len(indices) for source, indices in by_source.items()},
        )
        for source, indices in by_source.items():
            order = _by_turns(indices, candidates, seed, category, source)
            chosen += order[: number[source]]
    everything = dict.fromkeys(shares, size)
    return Selection(
        chosen=tuple(sorted(chosen)),
        wanted=apportion(size, shares, everything),
        available=available,
        taken=quota,
    )


def apportion(
    size: int, shares: Mapping[str, float], available: Mapping[str, int]
) -> dict[str, int]:
    """Whole numbers in proportion to shares (largest remainders), none above what is available.

    What one cannot give the others give, again in proportion, so that the numbers add up to `size`
    if there is so much.
    """
    taken = dict.fromkeys(shares, 0)
    rest = min(size, sum(available[name] for name in shares if shares[name] > 0))
    while rest:
        open_names = [name for name in shares if shares[name] > 0 and taken[name] < available[name]]
        total = sum(shares[name] for name in open_names)
        exact = {name: rest * shares[name] / total for name in open_names}
        whole = {name: int(exact[name]) for name in open_names}
        by_remainder = sorted(open_names, key=lambda name: whole[name] - exact[name])
        for name in by_remainder[: rest - sum(whole.values())]:
            whole[name] += 1
        for name in open_names:
            more = min(whole[name], available[name] - taken[name])
            taken[name] += more
            rest -= more
    return taken


def _by_turns(
    indices: Sequence[int], candidates: Sequence[Candidate], seed: int, category: str, source: str
) -> list[int]:
    """Rows in the order in which they are taken: one of each topic, then the second of each."""
    rng = derive_rng(seed, "selection", category, source)
    shuffled = list(indices)
    rng.shuffle(shuffled)
    turn_of: dict[tuple[int, bool], int] = defaultdict(int)
    place: dict[int, int] = {}
    turns: list[tuple[bool, int, int, int]] = []
    for index in shuffled:
        topic, is_guess = candidates[index].topic, candidates[index].is_guess
        place.setdefault(topic, len(place))
        turns.append((is_guess, turn_of[topic, is_guess], place[topic], index))
        turn_of[topic, is_guess] += 1
    return [index for *_, index in sorted(turns)]
