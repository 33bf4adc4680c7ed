"""What the tests share: tiny models in a temporary folder, tiny data, and no network in unit tests.

The models are random checkpoints of real families, saved as a hub would give them, so that tests go
through the same `from_pretrained` path as a reader's own model.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import itertools
import socket
from pathlib import Path

import pandas as pd
import pytest

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SUBJECTS = ["the film", "a book", "the meal", "this room", "that show", "our song"]
DEGREES = ["", "so", "very", "really"]
POSITIVE = ["good", "great", "fine", "lovely", "warm", "bright"]
NEGATIVE = ["bad", "poor", "dull", "cold", "weak", "grim"]
OTHER = ["was", "is", "not", "and", "we", "saw", "it", "i", "you", "they", "but", "too", "##ly"]
OTHER += ["##s", "##er", "in", "on", "at", "of", ".", ",", "!", "n", "x"]
VOCABULARY = list(
    dict.fromkeys(
        [*SPECIAL, *" ".join([*SUBJECTS, *DEGREES]).split(), *POSITIVE, *NEGATIVE, *OTHER]
    )
)
LOCAL = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    """A unit test that reaches for another machine fails."""
    if "unit" not in request.path.parts:
        return
    connect = socket.socket.connect

    def local_connect(self, address):
        if isinstance(address, tuple) and address[0] not in LOCAL:
            raise OSError(f"a unit test reached for the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_connect)


# ------------------------------------------------------------------------------------------ models


def save_bert(folder: Path, *, dropout: float = 0.0, pooler: bool = True, seed: int = 0) -> Path:
    """A BERT of 2 layers, 32 wide."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.05,
    )
    torch.manual_seed(seed)
    save(BertModel(config, add_pooling_layer=pooler), word_tokenizer(folder), folder)
    return folder


def save_distilbert(folder: Path) -> Path:
    """A DistilBERT, whose head has two layers."""
    import torch
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY),
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    save(DistilBertModel(config), word_tokenizer(folder), folder)
    return folder


def save_deberta(folder: Path) -> Path:
    """A DeBERTa-v2, whose pooler is part of the head."""
    import torch
    from transformers import DebertaV2Config, DebertaV2Model

    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
    )
    save(DebertaV2Model(config), word_tokenizer(folder), folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    """A GPT-2, which has no padding token."""
    import torch
    from transformers import GPT2Config, GPT2Model, GPT2Tokenizer

    torch.manual_seed(0)
    numbers = byte_vocabulary("<|endoftext|>")
    end = numbers["<|endoftext|>"]
    config = GPT2Config(
        vocab_size=len(numbers),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.2,
        bos_token_id=end,
        eos_token_id=end,
    )
    save(GPT2Model(config), GPT2Tokenizer(vocab=numbers, merges=[]), folder)
    return folder


def save_roberta(folder: Path) -> Path:
    """A RoBERTa, whose padding token is number 1 and whose head has two layers."""
    import torch
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    torch.manual_seed(0)
    numbers = byte_vocabulary("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    config = RobertaConfig(
        vocab_size=len(numbers),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.2,
    )
    save(RobertaModel(config), RobertaTokenizer(vocab=numbers, merges=[]), folder)
    return folder


def word_tokenizer(folder: Path):
    """The WordPiece tokenizer over `VOCABULARY`, from a vocabulary file in the folder."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return BertTokenizer(vocab=str(folder / "vocab.txt"))


def byte_vocabulary(*special: str) -> dict[str, int]:
    """Numbers of special tokens and the 256 bytes, as byte-level BPE writes them."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*special, *sorted(ByteLevel.alphabet())]
    return {token: number for number, token in enumerate(tokens)}


def save(model, tokenizer, folder: Path) -> None:
    from utils import models

    with models.quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


FAMILIES = {
    "bert": save_bert,
    "distilbert": save_distilbert,
    "deberta": save_deberta,
    "gpt2": save_gpt2,
    "roberta": save_roberta,
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """`tiny_model("gpt2")`: folder of a tiny checkpoint of that family; do not write into it."""
    made = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family](tmp_path_factory.mktemp("models") / family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_bert(tiny_model) -> Path:
    """Folder of a tiny BERT without dropout; do not write into it."""
    return tiny_model("bert")


@pytest.fixture(scope="session")
def make_bert():
    """`make_bert(folder, dropout=0.1, pooler=False, seed=1)`: a tiny BERT of the test's own."""
    return save_bert


# -------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="session")
def reviews() -> pd.DataFrame:
    """288 different short sentences, half of each label; the adjective alone decides."""
    made = []
    for label, adjectives in (("negative", NEGATIVE), ("positive", POSITIVE)):
        for subject, degree, adjective in itertools.product(SUBJECTS, DEGREES, adjectives):
            text = " ".join(f"{subject} was {degree} {adjective}".split())
            made.append({"text": text, "label": label})
    return pd.DataFrame(made).sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(scope="session")
def tiny_data(reviews):
    """A separable task: 96 training, 32 validation and 160 test rows, no text in two of them."""
    from utils.data import Data, digest_rows, split_rows

    rest, test = split_rows(reviews, 160 / 288, seed=0)
    train, validation = split_rows(rest, 32 / 128, seed=0)
    digest = digest_rows([train, validation, test])
    return Data(name="tiny", train=train, validation=validation, test=test, digest=digest)


@pytest.fixture
def write(tmp_path):
    """`write("a.csv", "text,label\\n…")`: a file in the test's folder; str as UTF-8, or bytes."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
