"""Training: it learns what is there, nothing else, and exactly what a plain loop would."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from utils import metrics, models
from utils.checkpoints import CheckpointError
from utils.tasks import make_task
from utils.training import (
    FinetuneConfig,
    TrainingError,
    batched,
    choose_device,
    epoch_batches,
    finetune,
    load,
    make_optimizer,
    make_scheduler,
    measure_memory,
    run_model,
)

TASK = make_task("sequence", ["negative", "positive"])
BASE = FinetuneConfig(device="cpu", precision="fp32", epochs=1, batch_size=16, max_length=16)
# Rates at which the tiny BERT learns the tiny data in a second or two.
RECIPES = {
    "full": BASE.replace(method="full", learning_rate=1e-2, epochs=6, patience=6),
    "lora": BASE.replace(method="lora", learning_rate=1e-2, epochs=16, patience=16),
    "frozen": BASE.replace(method="frozen", learning_rate=2e-2, epochs=4, patience=4),
}


@pytest.fixture
def train(tiny_bert, tiny_data):
    """`train(config)`: fine-tune the tiny BERT on the tiny data, in silence."""

    def run(config, *, data=tiny_data, model=tiny_bert, task=TASK):
        return finetune(task, data, config, model=str(model), report=None)

    return run


def weights(tuned):
    return {name: one.detach().clone() for name, one in tuned.model.named_parameters()}


def without_key_biases(state):
    """Attention ignores what is added to every key, so their gradient is rounding noise alone."""
    return {name: one for name, one in state.items() if not name.endswith("key.bias")}


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def first_rows(data, rows):
    return replace(data, train=data.train[:rows].reset_index(drop=True))


# -------------------------------------------------------------------------------- does it learn?


@pytest.fixture(scope="module")
def tuned(tiny_bert, tiny_data):
    """The tiny BERT, fine-tuned in full on the tiny data."""
    return finetune(TASK, tiny_data, RECIPES["full"], model=str(tiny_bert), report=None)


@pytest.fixture(scope="module")
def bodies(tiny_bert, tuned, tmp_path_factory):
    """The base model for each method: a frozen body must already know something."""
    folder = tmp_path_factory.mktemp("taught")
    with models.quiet():
        tuned.model.bert.save_pretrained(folder)
        tuned.tokenizer.save_pretrained(folder)
    return {"full": tiny_bert, "lora": tiny_bert, "frozen": folder}


def beats(tuned, data) -> bool:
    """Whether the model is better than the commonest label, by more than the test rows' chance."""
    guess = np.array([row["label"] for row in tuned.predict(data.test)], dtype=str)
    truth = data.test["label"].to_numpy(dtype=str)
    majority = float((truth == data.train["label"].mode()[0]).mean())
    return metrics.bootstrap(metrics.accuracy, guess, truth)["low"] > majority


def shuffled(data):
    """The same texts with labels that say nothing: of each true label, half the rows get each."""
    splits = {}
    for split in ("train", "validation", "test"):
        frame = getattr(data, split).copy()
        for label in TASK.labels:
            places = frame.index[getattr(data, split)["label"] == label]
            frame.loc[places, "label"] = [TASK.labels[n % 2] for n in range(len(places))]
        splits[split] = frame
    return replace(data, **splits)


@pytest.mark.parametrize("method", RECIPES)
def test_learns_a_separable_task(train, tiny_data, bodies, method):
    tuned = train(RECIPES[method], model=bodies[method])
    first, last = tuned.history[0], tuned.history[-1]
    assert last["train_loss"] < 0.5 * first["train_loss"]
    assert tuned.evaluate(tiny_data.train)["accuracy"] == 1.0
    assert tuned.evaluate(tiny_data.test)["accuracy"] >= 0.95
    assert beats(tuned, tiny_data)


@pytest.mark.parametrize("method", RECIPES)
def test_shuffled_labels_teach_nothing(train, tiny_data, bodies, method):
    """The same run and the same check where there is nothing to learn: `beats` can say no."""
    data = shuffled(tiny_data)
    assert not beats(train(RECIPES[method], data=data, model=bodies[method]), data)


def test_frozen_body_does_not_change_and_full_changes_everything(train, tiny_bert):
    from safetensors.torch import load_file

    body = load_file(tiny_bert / "model.safetensors")
    tuned = {m: train(BASE.replace(method=m, learning_rate=1e-2)) for m in ("frozen", "full")}
    same = {
        method: [
            name for name in body if torch.equal(one.model.bert.state_dict()[name], body[name])
        ]
        for method, one in tuned.items()
    }
    assert same["frozen"] == list(body)
    assert not [name for name in same["full"] if name.endswith("weight")]


def test_learns_three_labels(tiny_bert, tiny_data):
    task = make_task("sequence", ["high", "low", "middle"])
    names = {"good": "high", "great": "high", "bad": "low", "poor": "low"}

    def relabel(frame):
        last = frame["text"].str.split().str[-1]
        return frame.assign(label=[names.get(word, "middle") for word in last])

    data = replace(
        tiny_data,
        train=relabel(tiny_data.train),
        validation=relabel(tiny_data.validation),
        test=relabel(tiny_data.test),
    )
    config = RECIPES["full"].replace(epochs=12, patience=12)
    tuned = finetune(task, data, config, model=str(tiny_bert), report=None)
    assert tuned.logits(data.test).shape == (160, 3)
    assert tuned.evaluate(data.test)["macro_f1"] >= 0.9


# ---------------------------------------------------------------- is it exactly what it should be?


def test_same_seed_twice_gives_the_same_weights_bit_by_bit(make_bert, tmp_path, train):
    folder = make_bert(tmp_path / "dropout", dropout=0.1)
    config = BASE.replace(learning_rate=1e-3, epochs=2)
    first, again = (train(config, model=folder) for _ in range(2))
    assert equal(weights(first), weights(again))
    assert [step["loss"] for step in first.steps] == [step["loss"] for step in again.steps]
    other = train(config.replace(seed=1), model=folder)
    assert not equal(weights(first), weights(other))


def test_accumulated_small_batches_equal_one_large_batch(train, tiny_data):
    data = first_rows(tiny_data, 90)  # the last step is an incomplete one: 10 rows
    large = train(BASE.replace(batch_size=16, learning_rate=1e-3, epochs=2), data=data)
    small = train(
        BASE.replace(batch_size=4, accumulation_steps=4, learning_rate=1e-3, epochs=2), data=data
    )
    assert len(large.steps) == len(small.steps) == 2 * 6
    for one, other in zip(large.steps, small.steps, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    for name, one in without_key_biases(weights(large)).items():
        torch.testing.assert_close(one, weights(small)[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_whole_run_equals_a_plain_torch_loop(train, tiny_bert, tiny_data, schedule):
    """One run of `finetune` against a loop written out with torch and transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    config = BASE.replace(
        learning_rate=2e-3, epochs=2, schedule=schedule, label_smoothing=0.1, max_grad_norm=0.5
    )
    tuned = train(config)

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=2e-3,
        fused=False,
        foreach=False,
    )
    texts = tiny_data.train["text"].tolist()
    labels = torch.tensor([["negative", "positive"].index(one) for one in tiny_data.train["label"]])
    lengths = [len(numbers) for numbers in tokenizer(texts)["input_ids"]]
    total, warmup, step = 12, 2, 0  # warmup: ceil(0.1 * 12)
    losses, rates, states = [], [], []
    model.train()
    for epoch in (1, 2):
        for rows in epoch_batches(lengths, 16, seed=0, epoch=epoch):
            if step < warmup:
                factor = step / warmup
            elif schedule == "linear":
                factor = (total - step) / (total - warmup)
            elif schedule == "cosine":
                factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
            else:
                factor = 1.0
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * factor
            batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
            logs = logits.log_softmax(-1)
            true = -logs[torch.arange(16), labels[rows]]
            loss = (0.9 * true + 0.1 * -logs.mean(-1)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
            rates.append(2e-3 * factor)
            step += 1
        states.append({name: one.detach().clone() for name, one in model.named_parameters()})
    assert [one["learning_rate"] for one in tuned.steps] == pytest.approx(rates, abs=1e-9)
    assert [one["loss"] for one in tuned.steps] == pytest.approx(losses, abs=1e-6)
    for name, one in without_key_biases(states[tuned.best_epoch - 1]).items():
        torch.testing.assert_close(weights(tuned)[name], one, atol=1e-6, rtol=0)


def test_steps_and_history_are_complete(train, tiny_data):
    tuned = train(BASE.replace(epochs=2, batch_size=20, accumulation_steps=2, patience=2))
    assert [step["step"] for step in tuned.steps] == [1, 2, 3, 4, 5, 6]  # ceil(ceil(96/20)/2) = 3
    assert [step["epoch"] for step in tuned.steps] == pytest.approx(
        [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2]
    )
    assert tuned.steps[0]["learning_rate"] == 0.0  # the rise begins at nothing
    assert [entry["epoch"] for entry in tuned.history] == [1, 2]
    assert set(tuned.history[0]) == {
        "epoch",
        "train_loss",
        "validation_loss",
        "accuracy",
        "macro_f1",
        "learning_rate",
        "seconds",
    }
    # 40, 40 and 16 rows a step, in any order: the loss of an epoch is the mean over its rows
    rows = TASK.encode(tuned.tokenizer, tiny_data.train, 16)
    order = epoch_batches([len(row["input_ids"]) for row in rows], 40, seed=0, epoch=1)
    sizes = [len(batch) for batch in order]
    assert sorted(sizes) == [16, 40, 40]
    by_hand = sum(n * step["loss"] for n, step in zip(sizes, tuned.steps, strict=False)) / 96
    assert tuned.history[0]["train_loss"] == pytest.approx(by_hand, abs=1e-9)
    assert tuned.parameters == models.count_parameters(tuned.model)
    assert tuned.peak_bytes > 50e6
    assert tuned.seconds >= tuned.history[-1]["seconds"] > tuned.history[0]["seconds"] > 0
    assert not tuned.model.training


def test_report_has_one_line_an_epoch(tiny_bert, tiny_data):
    lines = []
    finetune(TASK, tiny_data, BASE.replace(epochs=2), model=str(tiny_bert), report=lines.append)
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("validation accuracy 0." in line for line in lines)


def test_test_rows_are_never_read(train, tiny_data):
    hidden = replace(tiny_data, test=None)
    config = BASE.replace(learning_rate=1e-3)
    assert equal(weights(train(config, data=hidden)), weights(train(config)))


# -------------------------------------------------------------------- which epoch, and when to stop


def rank(entry):
    return entry["accuracy"], -entry["validation_loss"]


def test_best_epoch_is_kept_not_the_last(train, tiny_data):
    # A constant, far too large rate: validation goes up and down.
    config = RECIPES["full"].replace(learning_rate=3e-2, schedule="constant")
    tuned = train(config)
    best = max(tuned.history, key=rank)
    assert len(tuned.history) == 6
    assert tuned.best_epoch == best["epoch"] < 6  # the case is one in which it matters
    assert tuned.evaluate(tiny_data.validation)["accuracy"] == best["accuracy"]
    examples = TASK.encode(tuned.tokenizer, tiny_data.validation, 16)
    _, nll = run_model(tuned.model, TASK, tuned.tokenizer, examples, "fp32")
    assert nll == pytest.approx(best["validation_loss"], abs=1e-6)
    assert nll != pytest.approx(tuned.history[-1]["validation_loss"], abs=1e-3)


def test_early_stopping(train):
    still = BASE.replace(learning_rate=1e-12, epochs=10)  # nothing moves, so nothing gets better
    for patience in (1, 3):
        tuned = train(still.replace(patience=patience))
        assert len(tuned.history) == 1 + patience
        assert tuned.best_epoch == 1


def test_loss_that_is_not_finite_stops_with_its_place(make_bert, tmp_path, train):
    folder = make_bert(tmp_path / "broken")
    from transformers import BertModel

    model = BertModel.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(math.inf)
    with models.quiet():
        model.save_pretrained(folder)
    with pytest.raises(
        TrainingError, match=r"became nan .* at epoch 1, step 1, .*learning_rate than"
    ):
        train(BASE, model=folder)


# ------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta", "distilbert", "deberta"])
def test_saved_and_loaded_model_gives_the_same_logits_bit_by_bit(
    tiny_model, tiny_data, tmp_path, train, family, method
):
    data = first_rows(tiny_data, 16)
    tuned = train(RECIPES[method].replace(epochs=1), data=data, model=tiny_model(family))
    assert tuned.save(tmp_path / "saved") == tmp_path / "saved"
    torch.manual_seed(123)  # nothing of the loaded model may come from chance
    again = load(tmp_path / "saved", device="cpu")
    assert np.array_equal(again.logits(tiny_data.test), tuned.logits(tiny_data.test))
    assert again.predict(["the film was good"]) == tuned.predict(["the film was good"])
    for name in ("task", "config", "history", "steps", "best_epoch", "seconds", "peak_bytes"):
        assert getattr(again, name) == getattr(tuned, name)
    assert again.parameters == tuned.parameters
    assert (again.base.name, again.base.digest) == (tuned.base.name, tuned.base.digest)


def test_lora_on_a_body_without_a_pooler_is_saved_with_its_pooler(
    make_bert, tmp_path, tiny_data, train
):
    """The pooler then starts at random, and that start is stored nowhere else."""
    folder = make_bert(tmp_path / "base", pooler=False)
    tuned = train(RECIPES["lora"].replace(epochs=1), model=folder)
    tuned.save(tmp_path / "saved")
    torch.manual_seed(123)
    again = load(tmp_path / "saved", device="cpu")
    assert np.array_equal(again.logits(tiny_data.test), tuned.logits(tiny_data.test))


def test_lora_folder_holds_the_thin_matrices_only(train, tmp_path, tiny_bert):
    sizes = {}
    for method in ("full", "lora"):
        tuned = train(BASE.replace(method=method, lora_rank=1))
        tuned.save(tmp_path / method)
        sizes[method] = sum(f.stat().st_size for f in (tmp_path / method).glob("*.safetensors"))
    assert sizes["lora"] < 0.2 * sizes["full"]


def test_load_refuses_a_damaged_folder(train, tmp_path):
    tuned = train(BASE)
    tuned.save(tmp_path / "saved")
    weights_file = tmp_path / "saved" / "model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load(tmp_path / "saved")
    tuned.save(tmp_path / "saved")  # saving again repairs it
    assert load(tmp_path / "saved", device="cpu").best_epoch == 1


def test_load_of_a_lora_refuses_another_base_model(tiny_bert, make_bert, train, tmp_path):
    base = shutil.copytree(tiny_bert, tmp_path / "base")
    tuned = train(BASE.replace(method="lora"), model=base)
    tuned.save(tmp_path / "saved")
    make_bert(base, seed=1)
    with pytest.raises(models.ModelError, match=r"was trained on .* with digest .* found here has"):
        load(tmp_path / "saved")
    shutil.rmtree(base)
    with pytest.raises(models.ModelError, match="there is no such folder"):
        load(tmp_path / "saved")


# ------------------------------------------------------------------------------------------ predict


def test_predict_on_plain_strings(tuned):
    found = tuned.predict(["the film was good", "the meal was so bad"])
    assert [row["label"] for row in found] == ["positive", "negative"]
    assert all(0.5 < row["probability"] <= 1 for row in found)


def test_outputs_keep_the_order_of_the_rows(tuned):
    texts = ["bad", "the film was really very good", "a book was dull", "we saw it"] * 40
    together = tuned.logits(texts)  # more than one batch, sorted by length inside
    assert together.dtype == np.float32
    alone = np.concatenate([tuned.logits([text]) for text in texts[:4]])
    np.testing.assert_allclose(together, np.tile(alone, (40, 1)), atol=1e-5)


def test_rows_with_labels_the_task_lacks_can_be_predicted_not_measured(tuned):
    rows = pd.DataFrame({"text": ["good"]})
    assert tuned.predict(rows)[0]["label"] == "positive"
    with pytest.raises(ValueError, match="not among the task's"):
        tuned.evaluate(rows.assign(label="excellent"))


def test_run_model_gives_the_mean_loss_over_the_rows(tuned, tiny_data):
    examples = TASK.encode(tuned.tokenizer, tiny_data.test, 16)
    logits, nll = run_model(tuned.model, TASK, tuned.tokenizer, examples, "fp32")
    columns = np.array([["negative", "positive"].index(one) for one in tiny_data.test["label"]])
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert nll == pytest.approx(-logs[np.arange(160), columns].mean(), abs=1e-5)
    for example in examples:
        del example["labels"]
    assert math.isnan(run_model(tuned.model, TASK, tuned.tokenizer, examples, "fp32")[1])


def test_bf16_is_near_float32_and_not_the_same(tuned, tiny_data):
    exact = tuned.logits(tiny_data.test)
    rough = replace(tuned, config=tuned.config.replace(precision="bf16")).logits(tiny_data.test)
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).max() < 0.2


# ------------------------------------------------------------------------------------ smaller parts


def test_decay_is_on_matrices_only(tiny_bert):
    network = models.load_model(
        tiny_bert, auto_class="AutoModelForSequenceClassification", head=TASK.head
    )
    optimizer = make_optimizer(network, BASE.replace(weight_decay=0.25))
    matrices, others = optimizer.param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.25, 0.0)
    assert {parameter.ndim for parameter in matrices["params"]} == {2}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(matrices["params"]) + len(others["params"]) == len(list(network.parameters()))


def test_warmup_rises_then_the_rate_falls_to_nothing():
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer, BASE.replace(warmup_share=0.25), 8)
    rates = []
    for _ in range(9):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_batched():
    assert list(batched(range(5), 2)) == [(0, 1), (2, 3), (4,)]
    assert list(batched([], 2)) == []


def test_measure_memory_sees_an_allocation():
    with measure_memory() as before:
        pass
    with measure_memory() as memory:
        block = np.ones(25_000_000)  # 200 MB, every page written
        assert block[-1] == 1
    growth = memory["peak_bytes"] - before["peak_bytes"]
    assert 190e6 < growth < 260e6


def test_measure_memory_stops_watching_after_an_error():
    import threading

    threads = threading.active_count()
    with pytest.raises(RuntimeError), measure_memory() as memory:
        raise RuntimeError
    assert threading.active_count() == threads
    assert memory["peak_bytes"] > 0


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_is_absent(device, train):
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]
    if there:
        pytest.skip(f"this machine has {device}, so it cannot show the error of its absence")
    with pytest.raises(TrainingError, match=rf"'{device}' is not on this machine; it has .*cpu"):
        choose_device(device)
    with pytest.raises(TrainingError, match=device):
        train(BASE.replace(device=device))


def test_device_that_is_there():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


# --------------------------------------------------------------------------- against the reference


@pytest.mark.parametrize("accumulation", [1, 3])
def test_losses_and_weights_equal_those_of_transformers_trainer(
    tiny_bert, tiny_data, tmp_path, accumulation
):
    """The same batches to `transformers.Trainer`: the same loss curve and the same weights.

    The Trainer takes a BERT classifier, whose `forward` takes any keyword, for one that divides its
    loss by `num_items_in_batch` itself, and so adds up the micro-batches without dividing; it is
    told otherwise here.
    """
    from transformers import Trainer, TrainingArguments, set_seed

    config = BASE.replace(
        epochs=2, batch_size=8, accumulation_steps=accumulation, learning_rate=1e-3, patience=2
    )
    data = replace(tiny_data, validation=tiny_data.train)
    ours = finetune(TASK, data, config, model=str(tiny_bert), report=None)

    set_seed(config.seed)
    tokenizer = models.load_tokenizer(tiny_bert)
    network = models.load_model(tiny_bert, auto_class=TASK.auto_class, head=TASK.head)
    rows = TASK.encode(tokenizer, data.train, config.max_length)
    lengths = [len(row["input_ids"]) for row in rows]

    class Batches:
        """The batches of both epochs, one epoch after the other."""

        def __init__(self):
            self.epoch = 0

        def __iter__(self):
            self.epoch += 1
            order = epoch_batches(lengths, 8 * accumulation, seed=config.seed, epoch=self.epoch)
            for step in order:
                for places in batched(step, 8):
                    yield TASK.collate(tokenizer, [rows[place] for place in places])

        def __len__(self):
            return math.ceil(len(rows) / 8)

    class Reference(Trainer):
        def get_train_dataloader(self):
            return Batches()

    steps = math.ceil(math.ceil(len(rows) / 8) / accumulation) * 2
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=math.ceil(config.warmup_share * steps),
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    theirs = Reference(network, arguments, train_dataset=rows, processing_class=tokenizer)
    theirs.model_accepts_loss_kwargs = False
    theirs.train()
    losses = [entry["loss"] for entry in theirs.state.log_history if "loss" in entry]
    assert len(losses) == len(ours.steps)
    np.testing.assert_allclose([step["loss"] for step in ours.steps], losses, rtol=1e-4)
    assert ours.best_epoch == config.epochs  # so both sides hold the weights of the last step
    reference = dict(theirs.model.named_parameters())
    for name, one in without_key_biases(weights(ours)).items():
        torch.testing.assert_close(one, reference[name].data, rtol=1e-5, atol=1e-6)
