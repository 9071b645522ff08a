"""The cache of shared prompts, against attention to each row's own history."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from grlo.engines.decode_cache import Layers, Tokens
from grlo.engines.shared_cache import SharedPromptCache

HEADS, QUERIES, SIZE = 2, 3, 4
LIKE = torch.zeros(())


def states_of(prompt: Tokens, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values [H, P, D] that stand for a prompt in a layer."""
    generator = torch.Generator().manual_seed(hash(prompt) % 2**31 + layer)
    size = HEADS, max(len(prompt) - 1, 1), SIZE
    return torch.randn(size, generator=generator), torch.randn(size, generator=generator)


class Rows:
    """A cache in use, and what each row has seen."""

    def __init__(self, *, max_rows: int = 12, num_layers: int = 2) -> None:
        self.cache = SharedPromptCache(max_rows=max_rows, max_columns=40, like=LIKE)
        self.num_layers = num_layers
        self.prompts: list[Tokens] = []
        self.written: list[list[list[tuple[Tensor, Tensor]]]] = []
        self.computed: list[Tokens] = []

    def _prefill(self, prompts: Sequence[Tokens]) -> Iterable[tuple[list[Tokens], Layers]]:
        for prompt in prompts:
            self.computed.append(prompt)
            layers = [states_of(prompt, layer) for layer in range(self.num_layers)]
            yield [prompt], [(keys[None], values[None]) for keys, values in layers]

    def admit(self, prompts: Sequence[Tokens], *, upcoming: Tokens | None = None) -> None:
        self.cache.admit(len(self.prompts), prompts, upcoming=upcoming, prefill=self._prefill)
        self.prompts += prompts
        self.written += [[[] for _ in range(self.num_layers)] for _ in prompts]

    def retire(self, finished: Sequence[int]) -> None:
        kept = len(self.prompts) - len(finished)
        gaps = [row for row in finished if row < kept]
        movers = [row for row in range(kept, len(self.prompts)) if row not in finished]
        for gap, mover in zip(gaps, movers, strict=True):
            self.prompts[gap], self.written[gap] = self.prompts[mover], self.written[mover]
        del self.prompts[kept:], self.written[kept:]
        pair = torch.tensor([gaps, movers], dtype=torch.int64)
        self.cache.close_gaps(pair[0], pair[1], num_rows=kept)

    def step(self) -> None:
        """Writes a column and compares what every row's queries attend to."""
        n = len(self.prompts)
        self.cache.advance()
        inputs = self.cache.inputs(n)
        for layer in range(self.num_layers):
            key, value = torch.randn(2, n, HEADS, 1, SIZE)
            query = torch.randn(n, HEADS * QUERIES, 1, SIZE)
            keys, values = self.cache.update(key, value, layer)
            output, _ = AttentionInterface()[SharedPromptCache.attention](
                SimpleNamespace(layer_idx=layer),
                query,
                keys,
                values,
                inputs["attention_mask"],
                shared=inputs["shared"],
                scaling=0.7,
            )
            for row in range(n):
                own = self.written[row][layer]
                own.append((key[row], value[row]))
                before = [states_of(self.prompts[row], layer)] if len(self.prompts[row]) > 1 else []
                seen_k, seen_v = (torch.cat(part, 1) for part in zip(*before, *own, strict=True))
                seen_k, seen_v = (
                    x.repeat_interleave(QUERIES, 0).double() for x in (seen_k, seen_v)
                )
                weights = (query[row].double() @ seen_k.transpose(1, 2) * 0.7).softmax(-1)
                expected = (weights @ seen_v).transpose(0, 1).float()
                torch.testing.assert_close(output[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_and_go_attend_to_their_own_prompt_and_answer(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Tensor.new_zeros
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new(*a, **k).fill_(math.nan))
    rng, rows = random.Random(seed), Rows()
    torch.manual_seed(seed)
    pool = [tuple(range(k, k + rng.choice([1, 2, 7, 11]))) for k in range(6)]
    for _ in range(12):
        count = rng.randint(0 if rows.prompts else 1, 12 - len(rows.prompts))
        rows.admit(sorted(rng.choice(pool) for _ in range(count)), upcoming=rng.choice(pool))
        for _ in range(rng.randint(1, 3)):
            rows.step()
        n = len(rows.prompts)
        rows.retire(sorted(rng.sample(range(n), rng.randint(0, n))))
    assert rows.computed


def test_a_prompt_is_kept_for_rows_to_come_and_forgotten_when_none_will() -> None:
    rows, awaited, over, other = Rows(), (1, 2, 3), (4, 5, 6), (7, 8)
    rows.admit([over, over, awaited, awaited, other], upcoming=awaited)
    rows.step()
    rows.retire([0, 1, 2, 3])
    assert set(rows.cache.prompts) == {awaited, other}
    rows.admit([awaited, awaited])
    rows.step()
    assert rows.computed == [over, awaited, other]
    rows.retire([1, 2])
    assert rows.cache.prompts == [other]
