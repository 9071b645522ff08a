"""Chat templates of our own, for tokenizers that come without one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """How a conversation is written out."""

    text: str
    """Jinja source over `messages`, `add_generation_prompt` and the tokenizer's special tokens."""
    end_of_turn: str | None
    """Token that ends an answer; None is the tokenizer's end of text."""


CHATML = Template(
    text=(
        "{% for message in messages %}"
        "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    end_of_turn="<|im_end|>",
)

LLAMA3 = Template(
    text=(
        "{% for message in messages %}"
        "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
        "{{ message.content | trim }}<|eot_id|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}"
    ),
    end_of_turn="<|eot_id|>",
)

# Needs no token besides the end of text. The answer's leading space belongs to its first word, as
# in running text, so the header ends right after the colon.
PLAIN = Template(
    text=(
        "{% for message in messages %}"
        "{% if message.role == 'assistant' %}"
        "Answer: {{ message.content | trim }}{{ eos_token }}\n\n"
        "{% elif message.role == 'system' %}"
        "{{ message.content | trim }}\n\n"
        "{% else %}"
        "Question: {{ message.content | trim }}\n"
        "{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}Answer:{% endif %}"
    ),
    end_of_turn=None,
)

TEMPLATES: dict[str, Template] = {"chatml": CHATML, "llama3": LLAMA3, "plain": PLAIN}
