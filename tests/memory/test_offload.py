"""What is offloaded lies where it should before, in and after each use, and keeps its values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grlo.memory.offload import Offload
from two_places import TwoPlaces


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def test_weights_come_and_go_with_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    places, model = TwoPlaces(monkeypatch), make_model()
    offload = Offload(("critic",), device="cpu")
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    assert not places.are_away(parameters)
    with offload.model("critic", model):
        assert not places.are_away(parameters)
    assert places.are_away(parameters)
    places_before = [p.data_ptr() for p in parameters]
    with offload.model("critic", model):
        assert not places.are_away(parameters)
        with torch.no_grad():
            model[1].weight += 1
    assert places.are_away(parameters)
    assert [p.data_ptr() for p in parameters] == places_before  # The same pages each time.
    before[2] += 1
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))


def test_an_error_inside_leaves_nothing_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    places, model = TwoPlaces(monkeypatch), make_model()
    offload = Offload(("critic",), device="cpu")
    with pytest.raises(ValueError, match="inside"), offload.model("critic", model):
        raise ValueError("inside")
    assert places.are_away(model.parameters())


def test_what_is_not_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    places, model = TwoPlaces(monkeypatch), make_model()
    offload = Offload(("reference", "optimizer"), device="cpu")
    with offload.model("critic", model):
        pass
    assert not places.are_away(model.parameters())
    offload = Offload(("critic",), device="cpu")
    optimizer = torch.optim.AdamW(model[1].parameters())
    model(torch.ones(1, 3)).sum().backward()
    with offload.states(optimizer):
        optimizer.step()
    assert not places.are_away(t for s in optimizer.state.values() for t in s.values())
    assert places.num_moves == 0


def test_states_of_an_optimizer_come_for_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    places = TwoPlaces(monkeypatch)
    offload = Offload(("optimizer",), device="cpu")
    plain, moved = make_model(), make_model()
    optimizers = [torch.optim.AdamW(m[1].parameters(), fused=True) for m in (plain, moved)]
    for step in range(3):
        for model, optimizer in zip((plain, moved), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 3) * step).square().sum().backward()
        optimizers[0].step()
        states = optimizers[1].state
        assert step == 0 or places.are_away(t for s in states.values() for t in s.values())
        with offload.states(optimizers[1]):
            optimizers[1].step()
            assert not places.are_away(t for s in states.values() for t in s.values())
    for one, other in zip(plain.parameters(), moved.parameters(), strict=True):
        assert torch.equal(one, other)
