"""With a random model: its vectors are sums over words, which is enough to find copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from grlo.errors import ModelError
from grlo.prompts.audit import AuditedText, Auditor
from grlo.prompts.embeddings import DocumentEmbeddings, SentenceEncoder
from grlo.prompts.overlap import Document
from grlo.prompts.topics import find_topics

WORDS = [f"word{number}" for number in range(60)]
TEXTS = [" ".join(WORDS[start : start + 12]) for start in range(0, 60, 12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A plain Hugging Face encoder, as it lies in a folder."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


def test_vectors_have_length_one_and_equal_texts_equal_vectors(model):
    vectors = SentenceEncoder(model).encode([*TEXTS, TEXTS[0]])
    assert vectors.shape == (6, 32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[5], atol=1e-6)


def test_a_long_text_is_read_to_its_end_in_overlapping_chunks(model):
    encoder = SentenceEncoder(model)
    words = [f"w{number}" for number in range(500)]
    chunks = encoder.chunks(" ".join(words))
    assert len(chunks) > 2
    assert chunks[0].split()[0] == "w0"
    assert chunks[-1].split()[-1] == "w499"
    assert [word for word in words if not any(word in chunk.split() for chunk in chunks)] == []


def test_a_document_is_found_in_a_longer_text_and_others_less(model):
    index = DocumentEmbeddings(model, TEXTS)
    (found,) = index.neighbours([TEXTS[3]], floor=-1.0)
    assert found[3] == pytest.approx(1.0, abs=1e-5)
    assert max(found, key=found.__getitem__) == 3
    assert index.neighbours([TEXTS[3]], floor=0.999) == [{3: pytest.approx(1.0, abs=1e-5)}]


def test_vectors_are_kept_and_taken_from_the_cache(model, tmp_path, monkeypatch):
    first = SentenceEncoder(model, cache=tmp_path / "cache").encode(TEXTS)
    (file,) = (tmp_path / "cache").iterdir()
    again = SentenceEncoder(model, cache=tmp_path / "cache")
    monkeypatch.setattr(again, "_model", None)
    assert np.array_equal(again.encode(TEXTS), first)
    file.write_bytes(b"torn")
    whole = SentenceEncoder(model, cache=tmp_path / "cache")
    assert np.allclose(whole.encode(TEXTS), first, atol=1e-6)


def test_an_audit_with_an_encoder_has_the_level_embedding(model):
    documents = [Document("x", str(n), text, domain="math") for n, text in enumerate(TEXTS)]
    encoder = DocumentEmbeddings(model, TEXTS)
    (finding,) = Auditor(documents, encoder=encoder).findings([AuditedText(TEXTS[2])])
    levels = {hit.level for hit in finding.hits if hit.document == 2}
    assert "embedding" in levels
    assert "lexical" not in levels


def test_topics_take_an_encoder(model):
    topics = find_topics(TEXTS * 4, num_topics=5, seed=0, encoder=SentenceEncoder(model))
    assert not topics.is_lexical
    assert len(set(topics.cluster.tolist())) == 5
    assert topics.cluster[0] == topics.cluster[5]


def test_a_model_that_is_not_there_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(ModelError, match="nowhere"):
        SentenceEncoder(str(tmp_path / "nowhere"))
