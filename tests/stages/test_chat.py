"""Talking to a checkpoint through a pipe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from grlo.errors import ModelError
from grlo.rollout import ChatRenderer
from grlo.stages import chat as chat_stage
from grlo.types import Message


def talk(
    model: Path, lines: str, monkeypatch: pytest.MonkeyPatch, *, max_tokens: int = 12
) -> list[list[Message]]:
    """Feeds lines to the program and returns the conversations that were answered."""
    conversations: list[list[Message]] = []
    answer = chat_stage.answer

    def spy(model: Any, renderer: Any, messages: list[Message], **options: Any) -> str:
        text = answer(model, renderer, messages, **options)
        conversations.append([*messages, Message("assistant", text)])
        return text

    monkeypatch.setattr(chat_stage, "answer", spy)
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    chat_stage.chat(str(model), temperature=0, max_tokens=max_tokens)
    return conversations


def greedy(model: Path, messages: list[Message], *, max_tokens: int = 12) -> str:
    tokens = greedy_tokens(model, messages, max_tokens=max_tokens)
    return ChatRenderer.from_pretrained(str(model)).decode(tokens)


def greedy_tokens(model: Path, messages: list[Message], *, max_tokens: int) -> list[int]:
    """The most probable answer, token by token from whole forward passes."""
    renderer = ChatRenderer.from_pretrained(str(model))
    language_model = AutoModelForCausalLM.from_pretrained(model)
    tokens = list(renderer.encode(messages))
    start = len(tokens)
    while len(tokens) - start < max_tokens:
        with torch.no_grad():
            tokens.append(int(language_model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in renderer.stop_ids:
            break
    return tokens[start:]


def test_answers_are_the_models_and_remember_the_conversation(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("policy")
    first, second = talk(model, "hello\n\nand again\n", monkeypatch)
    assert first == [
        Message("user", "hello"),
        Message("assistant", greedy(model, [Message("user", "hello")])),
    ]
    assert second[:3] == [*first, Message("user", "and again")]
    assert second[3].content == greedy(model, second[:3])
    assert first[1].content in capsys.readouterr().out
    assert first[1].content != second[3].content, "the model is one whose answers differ"


def test_sampling_settings_of_the_checkpoint_do_not_leak_in(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("policy")
    plain = talk(model, "hello\n", monkeypatch)
    GenerationConfig(
        repetition_penalty=50.0, suppress_tokens=list(range(200)), do_sample=True
    ).save_pretrained(model)
    monkeypatch.undo()
    assert talk(model, "hello\n", monkeypatch) == plain


def test_every_stop_token_of_the_renderer_ends_an_answer(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("policy")
    whole = greedy_tokens(model, [Message("user", "hello")], max_tokens=6)
    GenerationConfig(eos_token_id=whole[3]).save_pretrained(model)
    ((_, text),) = talk(model, "hello\n", monkeypatch)
    renderer = ChatRenderer.from_pretrained(str(model))
    assert text.content == renderer.decode(whole[: whole.index(whole[3])])


def test_reset_forgets_and_quit_leaves(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = talk(
        make_model("policy"), "one\n/reset\ntwo\n/quit\nthree\n", monkeypatch, max_tokens=3
    )
    assert [messages[-2].content for messages in conversations] == ["one", "two"]
    assert len(conversations[1]) == 2


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = chat_stage._Printer.put

    def interrupted(self: Any, value: torch.Tensor) -> None:
        put(self, value)
        if len(self.tokens) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(chat_stage._Printer, "put", interrupted)
    model = make_model("policy")
    first, second = talk(model, "hello\nagain\n", monkeypatch)
    assert first[-1].content == greedy(model, [Message("user", "hello")], max_tokens=2)
    assert second[:2] == first


def test_a_conversation_beyond_the_models_length_is_told_not_cut(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("policy", max_position_embeddings=40)
    ((_, text),) = talk(model, "x" * 40 + "\n", monkeypatch)
    assert text.content == ""
    assert "/reset to start over" in capsys.readouterr().out


def test_a_run_directory_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in ("step_000002", "step_000010", "step_000011.partial"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    assert chat_stage.newest_model(str(tmp_path)).endswith("step_000010")
    assert chat_stage.newest_model("owner/name") == "owner/name"
    with pytest.raises(ModelError, match="holds neither a model"):
        chat_stage.newest_model(str(tmp_path / "checkpoints"))


def test_damaged_weights_are_named(make_model: Any) -> None:
    model = make_model("policy")
    (model / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="policy: no language model could be loaded"):
        chat_stage.chat(str(model), temperature=0, max_tokens=1)


def test_a_model_without_template_is_refused(make_model: Any) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        chat_stage.chat(str(make_model("base", template=None)), temperature=0, max_tokens=1)
