"""Fine-tuning: one explicit loop, the same for every task and every method.

`finetune(task, data, config)` takes a base model, trains it on the training rows, measures it on
the validation rows after every epoch, keeps the weights of the best epoch and returns a
`Finetuned`, which predicts, evaluates and saves. The test rows are never touched here. Read
`finetune` and `train_step` first; `Progress` and `Keeper` let a training go on after an
interruption.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from utils import models
from utils.checkpoints import (
    CheckpointError,
    newest_checkpoint,
    save_checkpoint,
    verify_folder,
    write_folder,
)
from utils.data import Data
from utils.settings import FinetuneConfig
from utils.tasks import Task, make_task

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["FinetuneConfig", "Finetuned", "TrainingError", "finetune", "load", "measure_memory"]
EVALUATION_BATCH = 64  # rows; without gradients a larger batch fits
DESCRIPTION = "finetuned.json"


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says where it stopped and what to try."""


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model and how it came about.

    Attributes:
        task: what its outputs mean.
        config: the settings it was trained with.
        base: name, path and digest of the base model.
        model, tokenizer: from `transformers` (`peft` around it for LoRA); in evaluation mode.
        history: one dict an epoch: `epoch`, `train_loss` and `validation_loss` in nats a label,
            the task's metrics on the validation rows, `learning_rate`, `seconds`.
        steps: one dict an optimizer step: `step`, `epoch` (fractional), `loss`, `learning_rate`.
        best_epoch: the epoch whose weights these are.
        seconds: wall time of training, evaluation included.
        peak_bytes: most memory held meanwhile: of the GPU where there is one, else by the process.
        parameters: `(trainable, all)`.
    """

    task: Task
    config: FinetuneConfig
    base: models.BaseModel
    model: torch.nn.Module = field(repr=False)
    tokenizer: object = field(repr=False)
    history: list[dict] = field(repr=False, default_factory=list)
    steps: list[dict] = field(repr=False, default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    parameters: tuple[int, int] = (0, 0)

    def logits(self, rows: pd.DataFrame | Sequence[str]) -> np.ndarray:
        """Outputs for rows or plain texts, in their order; float32, (rows, C) for a classifier."""
        if not isinstance(rows, pd.DataFrame):
            rows = pd.DataFrame({"text": list(rows)})
        examples = self.task.encode(self.tokenizer, rows, self.config.max_length)
        for example in examples:
            example.pop("labels", None)
        return run_model(self.model, self.task, self.tokenizer, examples, self.config.precision)[0]

    def predict(self, rows: pd.DataFrame | Sequence[str]) -> list[dict]:
        """What a person reads for each row: for a classifier `label` and `probability`."""
        return self.task.decode(self.logits(rows))

    def evaluate(self, rows: pd.DataFrame) -> dict[str, float]:
        """The task's metrics on labelled rows."""
        return self.task.metrics(self.logits(rows), rows)

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder, whole or not at all; `load` reads it back.

        For LoRA only the head and the thin matrices are written, with the name and digest of the
        base model; otherwise the whole model, in the format of `transformers`.
        """
        description = {
            "kind": self.task.kind,
            "labels": list(self.task.labels),
            "config": asdict(self.config),
            "base": {"name": self.base.name, "digest": self.base.digest},
            "history": self.history,
            "steps": self.steps,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "parameters": list(self.parameters),
        }
        with write_folder(Path(folder)) as new, models.quiet():
            self.model.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
            (new / DESCRIPTION).write_text(text, encoding="utf-8")
        return Path(folder)


def load(folder: str | Path, *, device: str = "auto") -> Finetuned:
    """Read a model that `Finetuned.save` wrote.

    Raises:
        CheckpointError: a file is missing or differs from what was written.
        ModelError: the base model of a LoRA is missing or is not the one it was trained on.
    """
    folder = Path(folder)
    verify_folder(folder)
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    task = make_task(description["kind"], description["labels"])
    config = FinetuneConfig(**description["config"])
    base = models.BaseModel(description["base"]["name"], folder, description["base"]["digest"])
    tokenizer = models.load_tokenizer(folder)
    make = partial(
        models.load_model,
        auto_class=task.auto_class,
        head=task.head,
        pad_token_id=tokenizer.pad_token_id,
    )
    if config.method == "lora":
        import peft

        found = models.resolve(base.name)
        if found.digest != base.digest:
            raise models.ModelError(
                f"{folder} was trained on {base.name!r} with digest {base.digest[:12]}…; the one "
                f"found here has {found.digest[:12]}…. Give it the base model it was trained on."
            )
        base = found
        with models.quiet():
            model = peft.PeftModel.from_pretrained(make(found.path), folder)
    else:
        model = make(folder)
    known = {name: description[name] for name in ("history", "steps", "best_epoch", "seconds")}
    return Finetuned(
        task=task,
        config=config,
        base=base,
        model=model.to(choose_device(device)).eval(),
        tokenizer=tokenizer,
        peak_bytes=description["peak_bytes"],
        parameters=tuple(description["parameters"]),
        **known,
    )


def finetune(
    task: Task,
    data: Data,
    config: FinetuneConfig = FinetuneConfig(),
    *,
    model: str = "embedded",
    checkpoints: str | Path | None = None,
    report: Callable[[str], None] | None = print,
) -> Finetuned:
    """Fine-tune a base model on the training rows; keep its best epoch on the validation rows.

    The loss of an optimizer step is the sum over the labels of all its micro-batches divided by
    their number, so that `accumulation_steps` small batches equal one large one. Batches are made
    of texts of like length, see `epoch_batches`.

    Args:
        task: what a row means.
        data: `train` and `validation` are used.
        config: the settings.
        model: base model, as `models.resolve` takes it.
        checkpoints: folder for checkpoints, one every `config.save_steps` steps and at the end of
            every epoch. If it holds checkpoints of the same run, training goes on from the newest
            whole one, to the same weights, bit for bit on a CPU, as if it had not been interrupted.
        report: called with one line an epoch; None for silence.

    Raises:
        TrainingError: the loss or the gradient is no longer a finite number.
        CheckpointError: `checkpoints` holds those of another run.
        ModelError: the base model cannot be used.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    started = time.perf_counter()
    report = report or (lambda line: None)
    set_seed(config.seed)
    device = choose_device(config.device)
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first device stays for all
    accelerator = Accelerator(cpu=device.type == "cpu")
    if accelerator.num_processes > 1:
        raise TrainingError("finetune() runs in one process; start it without a launcher.")

    base = models.resolve(model)
    tokenizer = models.load_tokenizer(base.path)
    network = models.load_model(
        base.path,
        auto_class=task.auto_class,
        head=task.head,
        pad_token_id=tokenizer.pad_token_id,
    )
    network = models.choose_trainable(
        network,
        config.method,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )
    train = task.encode(tokenizer, data.train, config.max_length)
    validation = task.encode(tokenizer, data.validation, config.max_length)
    lengths = [len(example["input_ids"]) for example in train]
    optimizer = make_optimizer(network, config)
    rows_a_step = config.batch_size * config.accumulation_steps
    steps_an_epoch = math.ceil(len(train) / rows_a_step)
    scheduler = make_scheduler(optimizer, config, steps_an_epoch * config.epochs)
    network, optimizer = accelerator.prepare(network, optimizer)

    progress = Progress()
    keeper = None
    if checkpoints is not None:
        identity = {"config": asdict(config), "data": data.digest, "base": base.digest}
        keeper = Keeper(Path(checkpoints), identity, network, optimizer, scheduler, report)
        progress = keeper.resume() or progress

    def elapsed() -> float:
        return progress.seconds + time.perf_counter() - started

    with measure_memory(device) as memory:
        while not finished(progress, config):
            models.train_mode(network)
            epoch = progress.epoch + 1
            order = epoch_batches(lengths, rows_a_step, seed=config.seed, epoch=epoch)
            for rows in order[progress.batches :]:
                place = f"epoch {epoch}, step {len(progress.steps) + 1}"
                loss, count = train_step(
                    network, rows, train, task, tokenizer, config, accelerator, place
                )
                rate = scheduler.get_last_lr()[0]
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                progress.add_step(loss, count, rate, steps_an_epoch)
                if keeper and config.save_steps and len(progress.steps) % config.save_steps == 0:
                    keeper.save(progress, elapsed())
            logits, nll = run_model(network, task, tokenizer, validation, config.precision)
            entry = progress.end_epoch(
                {"validation_loss": nll, **task.metrics(logits, data.validation)},
                seconds=elapsed(),
            )
            report(epoch_line(entry, config.epochs, task.score))
            if not progress.best or _rank(entry, task) > _rank(progress.best_entry, task):
                progress.best, progress.best_entry = trainable_state(network), entry
            if keeper:
                keeper.save(progress, elapsed())
        network.load_state_dict(progress.best, strict=False)
    trained = accelerator.unwrap_model(network).eval()
    accelerator.free_memory()
    return Finetuned(
        task=task,
        config=config,
        base=base,
        model=trained,
        tokenizer=tokenizer,
        history=progress.history,
        steps=progress.steps,
        best_epoch=progress.best_entry["epoch"],
        seconds=elapsed(),
        peak_bytes=memory["peak_bytes"],
        parameters=models.count_parameters(trained),
    )


def finished(progress: Progress, config: FinetuneConfig) -> bool:
    """Whether all epochs are done, or `config.patience` epochs passed without a better one."""
    if progress.epoch == 0:
        return False
    stale = progress.epoch - progress.best_entry["epoch"]
    return progress.epoch >= config.epochs or stale >= config.patience


def epoch_batches(
    lengths: Sequence[int], size: int, *, seed: int, epoch: int, pool: int = 100
) -> list[list[int]]:
    """The batches of an epoch: row numbers, rows of like length together, in random order.

    A batch is padded to its longest text, so mixed lengths waste work. The rows are shuffled, cut
    into pools of `pool` batches, sorted by length inside each pool, cut into batches, and the
    batches shuffled. Every row comes once; the order depends on the seed and the epoch alone, so
    that a resumed run meets the same batches.

    Args:
        lengths: tokens of each row.
        size: rows in a batch.
        pool: batches in a pool; more pad less, fewer mix more.

    >>> epoch_batches([3, 9, 3, 9], 2, seed=0, epoch=1)
    [[3, 1], [0, 2]]
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches: list[list[int]] = []
    for part in batched(order.tolist(), size * pool):
        batches += [list(rows) for rows in batched(sorted(part, key=lengths.__getitem__), size)]
    rng.shuffle(batches)
    return batches


def train_step(
    network: torch.nn.Module,
    rows: Sequence[int],
    train: Sequence[dict],
    task: Task,
    tokenizer: object,
    config: FinetuneConfig,
    accelerator: Accelerator,
    place: str,
) -> tuple[float, int]:
    """Forward and backward of one optimizer step, in micro-batches; gradients are left clipped.

    Args:
        rows: row numbers of the step, cut into micro-batches of `config.batch_size`.
        train: the encoded rows.
        place: where the training is, for errors.

    Returns:
        Mean loss in nats a label, and the number of labels.

    Raises:
        TrainingError: no label carries loss, or the loss or the gradient norm is not finite.
    """
    micro = batched(rows, config.batch_size)
    batches = [task.collate(tokenizer, [train[row] for row in part]) for part in micro]
    count = sum(task.supervised(batch["labels"]) for batch in batches)
    if count == 0:
        raise TrainingError(f"{place}: no label of the training rows {rows} carries loss.")
    loss = 0.0
    for batch in batches:
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        with autocast(accelerator.device, config.precision):
            logits = network(**batch).logits
        part = task.loss(logits, labels, config.label_smoothing) / count
        accelerator.backward(part)
        loss += part.item()
    norm = float(accelerator.clip_grad_norm_(network.parameters(), config.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"the loss became {loss} and the gradient norm {norm} at {place}, on the training "
            f"rows {rows}. A smaller learning_rate than {config.learning_rate:g}, or precision "
            "fp32, usually helps; if not, look at these rows."
        )
    return loss, count


def _rank(entry: dict, task: Task) -> tuple[float, float]:
    """Order of epochs: the score first; of equal scores, the smaller validation loss."""
    return entry[task.score], -entry["validation_loss"]


def epoch_line(entry: dict, epochs: int, score: str) -> str:
    """One line a person can read about an epoch."""
    return (
        f"epoch {entry['epoch']}/{epochs}  train loss {entry['train_loss']:.3f}  "
        f"validation loss {entry['validation_loss']:.3f}  "
        f"validation {score} {entry[score]:.3f}  {entry['seconds']:.0f} s"
    )


def batched(items: Iterable, size: int) -> Iterator[tuple]:
    """Tuples of `size` items, the last one shorter (`itertools.batched` of Python 3.12).

    >>> list(batched("abc", 2))
    [('a', 'b'), ('c',)]
    """
    rest = iter(items)
    while group := tuple(islice(rest, size)):
        yield group


def make_optimizer(network: torch.nn.Module, config: FinetuneConfig) -> torch.optim.Optimizer:
    """AdamW over the weights that train; decay on matrices, none on biases and norms.

    Source: Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization".
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: FinetuneConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate over `steps` optimizer steps: a linear rise, then `config.schedule`."""
    from transformers import get_scheduler

    warmup = math.ceil(config.warmup_share * steps)
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


def trainable_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the weights that train, in main memory."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def run_model(
    network: torch.nn.Module,
    task: Task,
    tokenizer: object,
    examples: list[dict],
    precision: str,
) -> tuple[np.ndarray, float]:
    """Outputs of all examples, in their order, and the mean loss where they have labels.

    Batches are made of examples of like length, so that little is padded.

    Returns:
        float32 logits with one row an example, and nats a label (nan without labels).
    """
    network.eval()
    device = next(network.parameters()).device
    order = sorted(range(len(examples)), key=lambda place: len(examples[place]["input_ids"]))
    outputs: list[torch.Tensor] = []
    total, count = 0.0, 0
    for places in batched(order, EVALUATION_BATCH):
        batch = task.collate(tokenizer, [examples[place] for place in places])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        labels = batch.pop("labels", None)
        with autocast(device, precision):
            logits = network(**batch).logits
        if labels is not None:
            total += task.loss(logits, labels).item()
            count += task.supervised(labels)
        outputs.append(logits.float().cpu())
    joined = torch.cat(outputs).numpy()
    restored = np.empty_like(joined)
    restored[order] = joined
    return restored, total / count if count else math.nan


@dataclass
class Progress:
    """Where a training is: all that a checkpoint holds beside weights, optimizer and rate.

    Attributes:
        epoch: whole epochs done.
        batches: optimizer steps done in the epoch that is under way.
        loss_sum, label_count: of the epoch under way.
        history, steps: as in `Finetuned`.
        best, best_entry: weights and history entry of the best epoch so far.
        seconds: wall time before this process.
    """

    epoch: int = 0
    batches: int = 0
    loss_sum: float = 0.0
    label_count: int = 0
    history: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_entry: dict = field(default_factory=dict)
    seconds: float = 0.0

    def add_step(self, loss: float, count: int, rate: float, steps_an_epoch: int) -> None:
        """Note an optimizer step."""
        number = len(self.steps) + 1
        place = number / steps_an_epoch
        self.steps.append({"step": number, "epoch": place, "loss": loss, "learning_rate": rate})
        self.loss_sum += loss * count
        self.label_count += count
        self.batches += 1

    def end_epoch(self, measured: dict[str, float], seconds: float) -> dict:
        """Note the end of an epoch; return its history entry."""
        self.epoch += 1
        entry = {
            "epoch": self.epoch,
            "train_loss": self.loss_sum / self.label_count,
            **measured,
            "learning_rate": self.steps[-1]["learning_rate"],
            "seconds": seconds,
        }
        self.history.append(entry)
        self.batches, self.loss_sum, self.label_count = 0, 0.0, 0
        return entry


@dataclass(frozen=True)
class Keeper:
    """Saves a training to checkpoints and brings it back.

    Attributes:
        folder: holds one folder a checkpoint.
        identity: what must be equal for a checkpoint to be of this run: settings, data, base.
        network, optimizer, scheduler: what has state.
        report: told when a damaged checkpoint is passed over, or a run goes on.
    """

    folder: Path
    identity: dict
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: object
    report: Callable[[str], None]

    def save(self, progress: Progress, seconds: float) -> None:
        """Write a checkpoint: weights that train, optimizer, rate, random state, progress."""
        inner = self.optimizer.state_dict()
        tensors = {f"model.{name}": t for name, t in trainable_state(self.network).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
        tensors |= {
            f"optimizer.{place}.{name}": tensor.detach().cpu()
            for place, slots in inner["state"].items()
            for name, tensor in slots.items()
        }
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        state = {
            "identity": self.identity,
            "groups": inner["param_groups"],
            "scheduler": self.scheduler.state_dict(),
            "progress": {f.name: getattr(progress, f.name) for f in fields(progress)}
            | {"best": None, "seconds": seconds},
        }
        save_checkpoint(self.folder, len(progress.steps), tensors, state)

    def resume(self) -> Progress | None:
        """Restore the newest whole checkpoint; None where there is none.

        Raises:
            CheckpointError: it belongs to a run with other settings, data or base model.
        """
        found = newest_checkpoint(self.folder, self.report)
        if found is None:
            return None
        tensors, state = found
        self._check_identity(state["identity"])
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        self.network.load_state_dict(parts["model"], strict=False)
        slots: dict[int, dict] = {}
        for name, tensor in parts["optimizer"].items():
            place, _, slot = name.partition(".")
            slots.setdefault(int(place), {})[slot] = tensor
        self.optimizer.load_state_dict({"state": slots, "param_groups": state["groups"]})
        self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(parts["random"]["cuda"])
        progress = Progress(**state["progress"] | {"best": parts.get("best", {})})
        self.report(f"going on after step {len(progress.steps)} of {self.folder}")
        return progress

    def _check_identity(self, theirs: dict) -> None:
        mine = json.loads(json.dumps(self.identity))
        pairs = [("data", theirs["data"], mine["data"]), ("base", theirs["base"], mine["base"])]
        pairs += [(n, theirs["config"].get(n), value) for n, value in mine["config"].items()]
        differ = [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]
        if differ:
            raise CheckpointError(
                f"{self.folder} holds checkpoints of another run: {'; '.join(differ)}. "
                "Give another folder, or delete this one."
            )


def choose_device(name: str) -> torch.device:
    """The device for a setting: `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        TrainingError: the named device is not on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        there = ", ".join(kind for kind, present in available.items() if present)
        raise TrainingError(f"device {name!r} is not on this machine; it has {there}.")
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the model runs: bfloat16 matrix products, or float32 throughout.

    `auto` takes bf16 where the hardware multiplies it natively: the weights, the loss and the
    optimizer stay in float32 all the same (Micikevicius et al., 2018, "Mixed Precision Training").
    """
    enabled = precision == "bf16" or (precision == "auto" and _fast_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_tile"))
    return False


@contextmanager
def measure_memory(device: torch.device = torch.device("cpu")) -> Iterator[dict[str, int]]:
    """Measure the most memory held inside a `with` block; read `["peak_bytes"]` after it.

    On CUDA, what torch's allocator held on the device. Elsewhere, the resident memory of the whole
    process, libraries included, looked at every 20 ms; memory that earlier work left unused is
    given back to the system first, so that blocks can be compared.
    """
    memory = {"peak_bytes": 0}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield memory
        memory["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        return
    import psutil

    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)
    process, done = psutil.Process(), threading.Event()

    def watch() -> None:
        while True:
            memory["peak_bytes"] = max(memory["peak_bytes"], process.memory_info().rss)
            if done.wait(0.02):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()
