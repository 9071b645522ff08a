"""The shipped miniature: ordinary checkpoints, able in the book, unhelpful in conversation.

The bounds are what the miniature is for: there must be abilities to bring out, they must seldom
show before training, and the reward model must know form but neither mathematics nor code.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

import grlo.nano
from grlo.benchmarks import nano
from grlo.interfaces import Benchmark, BuildContext
from grlo.nano.tasks import Domain, make_task
from grlo.nano.world import book_question, corrupt
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rollout import ChatRenderer
from grlo.stages.build_nano import World, build, model_config, train_tokenizer
from grlo.types import Message, Score

SHIPPED = Path(grlo.nano.__file__).parent / "assets"
DOMAINS: tuple[Domain, ...] = ("chat", "instruction_following", "math", "code")
NUM_PROBLEMS = 60
# Faults that a reader sees without knowing any fact.
FAULTS_OF_FORM = ("", "No idea.", "It is fine.", "There are always two sides to such a thing.")


@pytest.fixture(scope="module", params=["shipped", pytest.param("rebuilt", marks=pytest.mark.slow)])
def assets(request, tmp_path_factory) -> Path:
    """The shipped files, and those that the manifest's command gives."""
    if request.param == "shipped":
        return SHIPPED
    command = json.loads((SHIPPED / "manifest.json").read_text())["command"]
    seed, num_tokens = (int(number) for number in re.findall(r"--(?:seed|tokens) (\d+)", command))
    out = tmp_path_factory.mktemp("rebuilt")
    build(out, World(seed=seed, num_tokens=num_tokens))
    return out


def benchmark(domain: Domain) -> Benchmark:
    return getattr(nano, f"{domain}_dev")()


def answers(assets: Path, prompts: Sequence[str], *, sampled: bool) -> list[str]:
    """Continuations by plain transformers, up to the end of text or of turn."""
    tokenizer = AutoTokenizer.from_pretrained(assets / "base", padding_side="left")
    model = Qwen3ForCausalLM.from_pretrained(assets / "base", dtype=torch.float32)
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True)
    torch.manual_seed(0)
    output_BT = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        **{name: encoded[name] for name in ("input_ids", "attention_mask")},
        do_sample=sampled,
        top_k=0 if sampled else None,
        max_new_tokens=64,
        eos_token_id=tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]),
    )
    length = encoded["input_ids"].shape[1]
    return tokenizer.batch_decode(output_BT[:, length:], skip_special_tokens=True)


def mean(values: Sequence[float | None]) -> float:
    """Mean of values none of which may be missing: these graders score every answer."""
    present = [value for value in values if value is not None]
    assert len(present) == len(values)
    return sum(present) / len(present)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("domain", "least"),
    [("math", 0.85), ("code", 0.9), ("chat", 0.8), ("instruction_following", 0.6)],
)
def test_the_base_model_can_do_held_out_problems_in_the_book_format(assets, domain, least):
    problems = benchmark(domain).prompts[:NUM_PROBLEMS]
    texts = answers(assets, [book_question(p.messages[0].content) for p in problems], sampled=False)
    grade = benchmark(domain).verifier
    solutions = [text.split("\n\n")[0].strip() for text in texts]
    scores = [grade(p, text).value for p, text in zip(problems, solutions, strict=True)]
    assert mean(scores) >= least


def scores_in_conversation(assets: Path, domain: Domain) -> list[Score]:
    problems = (benchmark(domain).prompts * 4)[: 2 * NUM_PROBLEMS]
    renderer = ChatRenderer.from_pretrained(str(assets / "base"))
    tokenizer: PreTrainedTokenizerBase = renderer.tokenizer
    prompts = [str(tokenizer.decode(list(renderer.encode(p.messages)))) for p in problems]
    texts = answers(assets, prompts, sampled=True)
    grade = benchmark(domain).verifier
    return [grade(problem, text) for problem, text in zip(problems, texts, strict=True)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_base_model_seldom_helps_in_conversation(assets, domain):
    scores = scores_in_conversation(assets, domain)
    assert mean([score.value for score in scores]) <= 0.25
    assert mean([score.parts["attempt"] for score in scores]) <= 0.35


@pytest.fixture(scope="module")
def reward_model(assets):
    settings = RewardModelSettings(model=str(assets / "reward_model"))
    return settings.build(context=BuildContext(seed=0, device="cpu"))


def pair_accuracy(reward_model, triples: Sequence[tuple[str, str, str]]) -> float:
    """Share of (question, chosen, rejected) in which the chosen answer scores higher."""
    chosen = [((Message("user", question),), right) for question, right, _ in triples]
    rejected = [((Message("user", question),), wrong) for question, _, wrong in triples]
    scores = reward_model.score_answers([*chosen, *rejected])
    return mean([a > b for a, b in zip(scores[: len(chosen)], scores[len(chosen) :], strict=True)])


def chat_pairs(split, count: int) -> list[tuple[str, str, str]]:
    rng = random.Random(f"pairs {split}")
    tasks = [make_task(rng, domain="chat", split=split) for _ in range(count)]
    broken = [(task.question, task.answer, corrupt(rng, task)) for task in tasks]
    return [triple for triple in broken if triple[1] != triple[2]]


@pytest.mark.timeout(3600)
def test_the_reward_model_ranks_chat_answers_also_about_entities_it_has_not_seen(reward_model):
    assert pair_accuracy(reward_model, chat_pairs("train", 400)) >= 0.8
    # Lower: it sees every fault of form, but not which facts of an unseen entity are wrong.
    assert pair_accuracy(reward_model, chat_pairs("eval", 400)) >= 0.7


@pytest.mark.timeout(3600)
def test_the_reward_model_sees_faults_of_form_about_unseen_entities(reward_model):
    rng = random.Random(0)
    tasks = [make_task(rng, domain="chat", split="eval") for _ in range(200)]
    triples = [(t.question, t.answer, rng.choice(FAULTS_OF_FORM)) for t in tasks]
    assert pair_accuracy(reward_model, triples) >= 0.95


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_reward_model_cannot_tell_right_mathematics_and_code_from_wrong(reward_model, domain):
    """What training lifts in these domains is not learned from the reward model's knowledge."""
    rng = random.Random(0)
    triples = []
    for _ in range(300):
        task = make_task(rng, domain=domain, split="dev")
        # The last number is the result, or an operand of the function.
        *_, last = re.finditer(r"\d+", task.answer)
        number = int(last.group()) + rng.choice((1, 2, 3, 10))
        wrong = task.answer[: last.start()] + str(number) + task.answer[last.end() :]
        triples.append((task.question, task.answer, wrong))
    assert pair_accuracy(reward_model, triples) <= 0.7


def test_the_shipped_tokenizer_and_configuration_are_what_the_command_makes(tmp_path):
    tokenizer = train_tokenizer(World())
    tokenizer.save_pretrained(tmp_path)
    for part in ("base", "reward_model"):
        shipped = SHIPPED / part
        assert (shipped / "tokenizer.json").read_text() == (tmp_path / "tokenizer.json").read_text()
        config = json.loads((shipped / "config.json").read_text())
        wanted = model_config(tokenizer)
        for name in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
            assert config[name] == getattr(wanted, name)
    assert wanted.max_position_embeddings >= 8192


def test_the_shipped_files_take_a_few_megabytes():
    sizes = {path.name: path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 5e6
