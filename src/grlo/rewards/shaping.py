"""Penalties that are subtracted from a reward, in units of its own running spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from grlo import registry
from grlo.errors import RewardError
from grlo.interfaces import Progress, Reward, silent
from grlo.moments import RunningMoments
from grlo.ngrams import repeated_share
from grlo.rollout import ChatRenderer
from grlo.settings import Recipe, ShapingSettings
from grlo.types import Rollout, Score, Usage

_OWN, _INNER = "shaping.", "inner."
"""What the keys of the state begin with."""


def shaped(reward: Reward, recipe: Recipe, renderer: ChatRenderer) -> Reward:
    """The reward with the penalties of a recipe, if it has any; the policy's tokenizer counts."""
    if not recipe.shaping.is_on:
        return reward
    return ShapedReward(
        reward,
        recipe.shaping,
        max_tokens=recipe.sampling.max_tokens,
        count_tokens=lambda text: len(renderer.tokenizer.encode(text, add_special_tokens=False)),
    )


class ShapedReward:
    """A reward whose scores are clipped, standardised and lowered by penalties, in this order.

    With r the inner reward's score, mu and sigma the running mean and standard deviation of all r
    so far (those of the present call included), the score is

        r' = s(clip(r, mu - c sigma, mu + c sigma)) - u sum_i w_i f_i,    0 <= f_i

    where s is the identity and u is sigma, or 1 with `unit = "absolute"`; with `standardize` s(r)
    is `(r - mu) / sigma` and u is 1. A penalty is never a factor: that would raise negative scores.
    The terms w_i f_i, for an answer of T tokens and the limit L:

    - `overlong`: w min(1, max(0, (T - (L - B)) / B)), B the buffer (DAPO, Yu et al. 2025, equation
      13).
    - `missing_end`: w if the limit cut the answer before a token that ends it.
    - `repetition`: w max(0, (x - x0) / (1 - x0)), x the share of the answer's n-grams that occurred
      in it before, x0 the threshold.
    - `length_difference`: w min(D, |a - b|), a and b the numbers of tokens of the extracted answer
      and of the reference answer, for answers that a verifier found right (General-Reasoner, Ma et
      al. 2025; its release has w = 0.05, D = 10, and counts with its verifier's tokenizer). Right
      is what a verifier scored above 0: its `score` among the parts, or r where there is none.

    `parts` of a score gets the inner value as `unshaped` and each term that is switched on as
    `shaping/<term>`: what was added, so penalties are negative or zero. Unscored stays unscored.

    Args:
        inner: Scores the rollouts.
        settings: See `ShapingSettings`.
        max_tokens: The limit L of an answer; at least the buffer.
        count_tokens: Number of tokens of a text.
    """

    def __init__(
        self,
        inner: Reward,
        settings: ShapingSettings,
        *,
        max_tokens: int,
        count_tokens: Callable[[str], int],
    ) -> None:
        self._inner, self._settings = inner, settings
        self._max_tokens, self._count_tokens = max_tokens, count_tokens
        self._moments = RunningMoments()
        self._metrics: dict[str, float] = {}

    def begin(self, rollouts: Sequence[Rollout], *, drawn_on: str) -> None:
        registry.begin(self._inner, rollouts, drawn_on=drawn_on)

    def score(self, rollouts: Sequence[Rollout], *, progress: Progress = silent) -> list[Score]:
        """One score per rollout, in order."""
        unshaped = self._inner.score(rollouts, progress=progress)
        # Sorted, so that not even the rounding depends on the order of the rows.
        self._moments.update(sorted(s.value for s in unshaped if s.value is not None))
        scores = [
            self._shaped(rollout, score) for rollout, score in zip(rollouts, unshaped, strict=True)
        ]
        self._metrics = self._touched([score for score in scores if score.value is not None])
        return scores

    def _shaped(self, rollout: Rollout, score: Score) -> Score:
        if score.value is None:
            return score
        settings, sigma = self._settings, self._moments.std
        value, shift = score.value, 0.0
        parts = {**score.parts, "unshaped": value}
        if settings.clip:
            reach = settings.clip * sigma
            clipped = min(max(value, self._moments.mean - reach), self._moments.mean + reach)
            shift = parts["shaping/clip"] = clipped - value
        value += shift
        if settings.standardize:
            value = self._moments.standardized(value)
        unit = 1.0 if settings.standardize or settings.unit == "absolute" else sigma
        for name, penalty in self._penalties(rollout, score).items():
            parts[f"shaping/{name}"] = 0.0 - unit * penalty
            value -= unit * penalty
        return replace(score, value=value, parts=parts)

    def _penalties(self, rollout: Rollout, score: Score) -> dict[str, float]:
        """w f of every term that is switched on."""
        settings, completion = self._settings, rollout.completion
        penalties: dict[str, float] = {}
        if settings.overlong_buffer:
            start = self._max_tokens - settings.overlong_buffer
            excess = (len(completion.tokens) - start) / settings.overlong_buffer
            penalties["overlong"] = settings.overlong_penalty * min(1.0, max(0.0, excess))
        if settings.missing_end_penalty:
            is_cut = completion.finish_reason == "length"
            penalties["missing_end"] = settings.missing_end_penalty * is_cut
        if settings.repetition_penalty:
            threshold = settings.repetition_threshold
            share = repeated_share(completion.tokens, n=settings.repetition_ngram)
            excess = max(0.0, share - threshold) / (1 - threshold)
            penalties["repetition"] = settings.repetition_penalty * excess
        if settings.length_difference_penalty:
            num_tokens = self._length_difference(rollout, score)
            penalties["length_difference"] = settings.length_difference_penalty * num_tokens
        return penalties

    def _length_difference(self, rollout: Rollout, score: Score) -> int:
        """Tokens between a right answer and its reference, up to the cap; 0 for other answers."""
        reference = rollout.prompt.reference
        if score.extracted is None or reference is None or not _is_right(score):
            return 0
        difference = self._count_tokens(score.extracted) - self._count_tokens(reference)
        return min(self._settings.length_difference_cap, abs(difference))

    def _touched(self, scores: Sequence[Score]) -> dict[str, float]:
        """Share of scored answers that each term changed."""
        shares: dict[str, float] = {}
        for name in scores[0].parts if scores else ():
            if name.startswith("shaping/"):
                metric = "reward/clipped" if name == "shaping/clip" else f"reward/{name}"
                touched = sum(score.parts[name] != 0 for score in scores)
                shares[metric] = touched / len(scores)
        return shares

    def state_dict(self) -> dict[str, float]:
        """Statistics of the inner scores and the inner reward's own state, apart by prefix."""
        own = {_OWN + key: value for key, value in asdict(self._moments).items()}
        return own | {_INNER + key: value for key, value in self._inner.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes over statistics.

        Raises:
            RewardError: The state is that of a reward without shaping.
        """
        own = {k.removeprefix(_OWN): v for k, v in state.items() if k.startswith(_OWN)}
        if own.keys() != asdict(self._moments).keys():
            raise RewardError(
                f"the checkpoint's reward has no statistics of shaping (found {sorted(state)}). "
                "Resume with the recipe it was made by."
            )
        self._moments = RunningMoments(**own)  # pyright: ignore[reportArgumentType]
        self._inner.load_state_dict(
            {k.removeprefix(_INNER): v for k, v in state.items() if k.startswith(_INNER)}
        )

    def metrics(self) -> dict[str, float]:
        """The inner reward's, and of the latest call's scored answers the share that each term
        changed: `reward/shaping/<term>`, `reward/clipped`."""
        return self._inner.metrics() | self._metrics

    def usage(self) -> Usage:
        return self._inner.usage()

    def describe(self) -> dict[str, object]:
        """What the inner reward says of itself."""
        return registry.describe(self._inner)

    def close(self) -> None:
        registry.close(self._inner)


def _is_right(score: Score) -> bool:
    """Whether the verdict is above 0, whatever it is worth in the reward and summed up with."""
    verdicts = [part for name, part in score.parts.items() if name.rpartition("/")[2] == "score"]
    return max(verdicts or [score.value or 0.0]) > 0
