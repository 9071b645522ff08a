"""Messages to tokens and back, and prompts to rollouts: for training and evaluation alike."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from grlo.errors import ModelError
from grlo.interfaces import OnGroup, Progress, Renderer, RolloutEngine, ignore, silent
from grlo.seeding import derive_seed
from grlo.templates import TEMPLATES
from grlo.types import Completion, Message, Prompt, Rollout, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for an answer while the template is searched for what follows one.
_ANSWER = "\ue0fe"
# Private-use characters that may break up special tokens in message text; one not in use is taken.
_BREAKERS = [chr(code) for code in range(0xE000, 0xE0FE)]


class ChatRenderer:
    """Turns messages into tokens and back with a Hugging Face tokenizer.

    The layout is the tokenizer's own chat template, or one of `grlo.templates.TEMPLATES`. A
    tokenizer that begins texts with a BOS token gets exactly one, whether or not the template
    writes it; other tokenizers get what the template writes.

    Text of a message that spells a special token, such as a user's literal `<|im_end|>`, stays
    text: a private-use character breaks its spelling before the template is rendered, the rendered
    string is cut at the special tokens that the template itself wrote, and the pieces between them
    are tokenized without that character and without recognising special tokens. Conversations
    without such text, all ordinary ones, are tokenized in one piece. Tokens that a tokenizer adds
    without calling them special (`<think>`) are recognised wherever they stand.

    Args:
        tokenizer: A tokenizer of Hugging Face transformers.
        template: A key of `TEMPLATES`; None takes the tokenizer's own chat template.
        extra_stop_ids: Further ids that end an answer, such as those of a generation config.

    Raises:
        ModelError: There is no template, no end-of-text token, or a token that the named template
            needs is not in the vocabulary.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        extra_stop_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        known = ", ".join(TEMPLATES)
        eos_id = tokenizer.eos_token_id
        if not isinstance(eos_id, int):
            raise ModelError(
                f"{name} has no end-of-text (EOS) token, so answers could not end. "
                "Set eos_token in its tokenizer_config.json."
            )
        if template is not None and template not in TEMPLATES:
            raise ModelError(f"unknown chat template {template!r}; known: {known}.")
        if template is None and not isinstance(tokenizer.chat_template, str):
            raise ModelError(
                f"{name} has no chat template. Name one of ours ({known}) with template = "
                "'...'; 'plain' (Question/Answer) needs no special tokens."
            )
        self._chat_template = TEMPLATES[template].text if template else None
        self._special_pattern = _any_of(
            {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
            | {str(token) for token in tokenizer.all_special_tokens}
        )
        self._bos = _own_bos(tokenizer)
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        end_of_turn = (
            self._find_end_of_turn() if template is None else TEMPLATES[template].end_of_turn
        )
        if template is not None:
            self._require_tokens(template, name)
        end_ids = [] if end_of_turn is None else [self._vocabulary[end_of_turn]]
        self.end_id: int = end_ids[0] if end_ids else eos_id
        """What the template ends an answer with: end of turn, or end of text."""
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([eos_id, *end_ids, *extra_stop_ids]))
        """End of text, end of turn, then any others."""
        pad_id = tokenizer.pad_token_id
        self.pad_id: int = pad_id if isinstance(pad_id, int) else eos_id
        self.max_token_id: int = max(self._vocabulary.values())
        """Largest id that the tokenizer can produce."""
        written = str(self._chat_template or tokenizer.chat_template)
        self.template_sha256: str = hashlib.sha256(written.encode()).hexdigest()
        """Of the chat template in use."""

    @classmethod
    def from_pretrained(
        cls, path: str, *, revision: str | None = None, template: str | None = None
    ) -> ChatRenderer:
        """The renderer of a checkpoint; loads its tokenizer and no weights.

        Args:
            path: Folder or hub id.
            revision: Commit or tag on the hub.
            template: A key of `TEMPLATES`; None takes the tokenizer's own chat template.

        Raises:
            ModelError: There is no usable tokenizer, or see the class.
        """
        from transformers import AutoTokenizer, GenerationConfig

        revision = revision or "main"
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path, revision=revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: no tokenizer could be loaded ({error}).") from error
        try:
            stop = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
        except OSError:  # The file is optional.
            stop = None
        stop_ids = [stop] if isinstance(stop, int) else stop or []
        return cls(tokenizer, template=template, extra_stop_ids=stop_ids)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of the conversation up to and including the header of the answer."""
        return self._tokenize(messages, add_generation_prompt=True)

    def encode_conversation(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a conversation that is complete, as reward models read it."""
        return self._tokenize(messages, add_generation_prompt=False)

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Tokens of an answer as they would be sampled after `encode`, `end_id` included.

        White space that the template writes between its header and an answer is part of it. Text
        that spells a special token stays text.
        """
        if self._answer_space:
            text = self._answer_space + text.lstrip()
        tokens = self.tokenizer.encode(
            text,
            add_special_tokens=False,
            split_special_tokens=self._special_pattern.search(text) is not None,
        )
        return (*tokens, self.end_id)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Tokens of plain text, behind the BOS token where the tokenizer has one. Text that spells
        a special token stays text."""
        tokens = self.tokenizer.encode(
            text,
            add_special_tokens=False,
            split_special_tokens=self._special_pattern.search(text) is not None,
        )
        return (*(() if self._bos is None else (self._bos,)), *tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an answer, without the stop token and other special tokens."""
        stop = set(self.stop_ids)
        kept = [token for token in tokens if token not in stop]
        text = self.tokenizer.decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def save_tokenizer(self, path: Path) -> None:
        """Saves the tokenizer with the template in use, so that the folder needs no other name."""
        own = self.tokenizer.chat_template
        if self._chat_template is not None:
            self.tokenizer.chat_template = self._chat_template
        try:
            self.tokenizer.save_pretrained(path)
        finally:
            self.tokenizer.chat_template = own

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as the template writes it, for people to read.

        Raises:
            ModelError: The template refuses the conversation (roles out of order, for example).
        """
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self._chat_template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelError(
                f"the chat template refuses a conversation of roles [{roles}]: {error}. "
                "Choose another template or other messages."
            ) from error
        assert isinstance(text, str)
        return text

    def _tokenize(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> tuple[int, ...]:
        contents = [message.content for message in messages]
        if any(map(self._special_pattern.search, contents)):
            breaker = next(c for c in _BREAKERS if not any(c in content for content in contents))
            broken = [
                replace(message, content=self._break_specials(message.content, breaker))
                for message in messages
            ]
            text = self.text(broken, add_generation_prompt=add_generation_prompt)
            tokens = self._tokenize_around_specials(text, breaker)
        else:
            text = self.text(messages, add_generation_prompt=add_generation_prompt)
            tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if self._bos is not None and tokens[:1] != [self._bos]:
            tokens = [self._bos, *tokens]
        return tuple(tokens)

    def _break_specials(self, content: str, breaker: str) -> str:
        # Breaking one token can leave another that overlapped it, hence the loop.
        while match := self._special_pattern.search(content):
            middle = match.start() + 1
            content = content[:middle] + breaker + content[middle:]
        return content

    def _tokenize_around_specials(self, text: str, breaker: str) -> list[int]:
        tokens: list[int] = []
        position = 0
        for match in [*self._special_pattern.finditer(text), None]:
            piece = text[position : match.start() if match else None].replace(breaker, "")
            if piece:
                tokens += self.tokenizer.encode(
                    piece, add_special_tokens=False, split_special_tokens=True
                )
            if match:
                tokens.append(self._vocabulary[match.group()])
                position = match.end()
        return tokens

    def _find_end_of_turn(self) -> str | None:
        """The token that the tokenizer's own template writes right after an answer, if any."""
        turns = [Message(role="user", content="?"), Message(role="assistant", content=_ANSWER)]
        _, _, after = self.text(turns, add_generation_prompt=False).rpartition(_ANSWER)
        added = _any_of({str(token) for token in self.tokenizer.added_tokens_decoder.values()})
        match = added.match(after.lstrip())
        return match.group() if match else None

    @cached_property
    def _answer_space(self) -> str:
        """White space that stands between the header of an answer and the answer, if any."""
        question = Message(role="user", content="?")
        answer = Message(role="assistant", content=_ANSWER)
        header = self.text([question])
        before, _, _ = self.text([question, answer], add_generation_prompt=False).rpartition(
            _ANSWER
        )
        between = before.removeprefix(header) if before.startswith(header) else ""
        return between if between.isspace() else ""

    def _require_tokens(self, template: str, name: str) -> None:
        needed = re.findall(r"<\|\w+\|>", TEMPLATES[template].text)
        missing = sorted({token for token in needed if token not in self._vocabulary})
        if missing:
            raise ModelError(
                f"template {template!r} writes {', '.join(missing)}, which {name} does not have as "
                "tokens. Use template = 'plain', or add the tokens to the tokenizer and the model."
            )


class PlainRenderer:
    """Puts questions as plain text behind others that have answers: for a model without template.

    Args:
        renderer: Of the same model, for its tokenizer; only its end of text ends an answer here.
        shots: Questions with answers that stand before every question.
    """

    def __init__(self, renderer: ChatRenderer, shots: Sequence[tuple[str, str]]) -> None:
        self._renderer = renderer
        self._shots = "".join(f"Question: {asked}\n\nAnswer: {said}\n\n\n" for asked, said in shots)
        eos_id = renderer.tokenizer.eos_token_id
        assert isinstance(eos_id, int)
        self.stop_ids: tuple[int, ...] = (eos_id,)
        self.pad_id = renderer.pad_id

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of the shots, the last message as a question, and the beginning of its answer."""
        text = f"{self._shots}Question: {messages[-1].content}\n\nAnswer:"
        return self._renderer.encode_text(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an answer, without special tokens."""
        return self._renderer.decode(tokens)


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first; nothing when there are none."""
    longest_first = sorted((token for token in tokens if token), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _own_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS id, if the tokenizer itself begins texts with it."""
    bos_id = tokenizer.bos_token_id
    return bos_id if isinstance(bos_id, int) and tokenizer.encode("a")[0] == bos_id else None


def check_compatible(max_token_id: int, *, vocab_size: int) -> None:
    """Refuses a tokenizer with ids beyond its model's embedding table.

    A table larger than the tokenizer is usual (it is padded for speed) and accepted.

    Args:
        max_token_id: `ChatRenderer.max_token_id`.
        vocab_size: `vocab_size` of the model's configuration.

    Raises:
        ModelError: The tokenizer has ids that the model does not.
    """
    if max_token_id >= vocab_size:
        raise ModelError(
            f"the tokenizer makes ids up to {max_token_id}, but the model has embeddings for 0 to "
            f"{vocab_size - 1}. Use the tokenizer that belongs to the model, or resize the model."
        )


def sample(
    engine: RolloutEngine,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    *,
    seed: int,
    step: int,
    progress: Progress = silent,
    on_group: OnGroup | None = None,
) -> list[Rollout]:
    """Draws answers to prompts.

    Sample j of a prompt depends on `seed`, `step`, the prompt and j, and on which occurrence it is
    when the same prompt stands in the call more than once; not on the other prompts.

    Args:
        engine: Draws completions.
        renderer: Makes and reads tokens; its stop ids are added to those of `sampling`.
        prompts: What is to be answered.
        sampling: How to draw, `num_samples` times per prompt.
        seed: The run's seed.
        step: The training step, or a number that tells evaluations apart.
        progress: Called as completions finish.
        on_group: Called as groups are complete, with what will be returned of them.

    Returns:
        `num_samples` rollouts per prompt, prompt-major; `group` is the prompt's index in the call.
    """
    stop = tuple(dict.fromkeys([*sampling.stop, *renderer.stop_ids]))
    encoded = [renderer.encode(prompt.messages) for prompt in prompts]
    seen: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        seeds.append(derive_seed(seed, "rollout", step, prompt.id, seen[prompt.id]))
        seen[prompt.id] += 1
    drawn: dict[int, dict[int, Completion]] = defaultdict(dict)

    def on_completion(index: int, completion: Completion) -> None:
        group, place = divmod(index, sampling.num_samples)
        drawn[group][place] = completion
        if on_group is not None and len(drawn[group]) == sampling.num_samples:
            _, whole = zip(*sorted(drawn.pop(group).items()), strict=True)
            rollouts = to_rollouts([prompts[group]], [encoded[group]], whole, renderer=renderer)
            on_group([replace(rollout, group=group) for rollout in rollouts])

    completions = engine.generate(
        encoded,
        replace(sampling, stop=stop),
        seeds=seeds,
        progress=progress,
        on_completion=ignore if on_group is None else on_completion,
    )
    return to_rollouts(prompts, encoded, completions, renderer=renderer)


def to_rollouts(
    prompts: Sequence[Prompt],
    encoded: Sequence[tuple[int, ...]],
    completions: Sequence[Completion],
    *,
    renderer: Renderer,
) -> list[Rollout]:
    """Completions with the prompts that they belong to, equally many of each, prompt-major.

    Args:
        prompts: What was answered.
        encoded: Tokens of each prompt.
        completions: What the engine drew.
        renderer: Reads the tokens of completions.
    """
    num_samples = len(completions) // len(prompts)
    return [
        Rollout(
            prompt=prompts[index // num_samples],
            group=index // num_samples,
            prompt_tokens=encoded[index // num_samples],
            completion=completion,
            text=renderer.decode(completion.tokens),
        )
        for index, completion in enumerate(completions)
    ]
