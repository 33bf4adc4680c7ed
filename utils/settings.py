"""Typed settings: what a value may be, and one clear error when it is something else.

A setting is a name, a type, a default, a meaning and its limits. Both the parameters of a notebook
(read from the text of its first code cell) and the fields of `FinetuneConfig` are settings, so
both refuse the same values in the same words. Nothing here imports more than the standard library:
a wrong value is refused before anything heavy starts.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
SCALAR_NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
INTERVAL = re.compile(r"([\[(])\s*([^,\s\])]*)\s*,\s*([^,\s\])]*)\s*([\])])$")
CHOICES = re.compile(r"\{([^{}]+)\}$")


class SettingError(ValueError):
    """A setting that does not exist, has the wrong type or is out of its limits."""


@dataclass(frozen=True)
class Setting:
    """One named value that a reader may change.

    Attributes:
        name: as it stands in the parameters cell.
        type: `str`, `int`, `float`, `bool`, or a list of one of them, `list[int]`.
        default: the value when nothing is said.
        meaning: what it does, and its unit.
        limits: an interval such as `(0, 1]` or `[1, )`, choices such as `{full, lora}`, or empty.
    """

    name: str
    type: str
    default: object
    meaning: str = ""
    limits: str = ""

    def check(self, value: object) -> object:
        """Return the value in the setting's type, or raise `SettingError`.

        A string is read as the command line would give it, so that `"1e-4"` is a number; a whole
        number is taken for a float, never the other way round.

        >>> Setting("learning_rate", "float", 1e-4, limits="(0, 1]").check("3e-5")
        3e-05
        """
        inner = re.fullmatch(r"list\[(\w+)\]", self.type)
        if inner is None:
            return self._check_scalar(value, self.type)
        return [self._check_scalar(item, inner[1]) for item in self._items(value)]

    def _items(self, value: object) -> list:
        if isinstance(value, str):
            text = value.strip()
            try:
                value = (
                    ast.literal_eval(text)
                    if text.startswith("[")
                    else [item.strip() for item in text.split(",")]
                )
            except (ValueError, SyntaxError):
                raise self._refusal(value) from None
        if not isinstance(value, list | tuple):
            raise self._refusal(value)
        return list(value)

    def _check_scalar(self, value: object, kind: str) -> object:
        typed = _coerce(value, kind)
        if typed is None or not self._within(typed):
            raise self._refusal(value)
        return typed

    def _within(self, value: object) -> bool:
        if choices := CHOICES.search(self.limits):
            return str(value) in [choice.strip() for choice in choices[1].split(",")]
        if interval := INTERVAL.search(self.limits):
            opening, low, high, closing = interval.groups()
            above = not low or value > float(low) or (opening == "[" and value == float(low))
            below = not high or value < float(high) or (closing == "]" and value == float(high))
            return above and below
        return True

    def _refusal(self, value: object) -> SettingError:
        return SettingError(
            f"{self.name} = {value!r} is not accepted; expected {self.accepted}"
            f"{f' ({self.meaning})' if self.meaning else ''}, for example {self.default!r}."
        )

    @property
    def accepted(self) -> str:
        """What may be given, in words.

        >>> Setting("epochs", "int", 3, limits="[1, 100]").accepted
        'a whole number in [1, 100]'
        """
        if choices := CHOICES.search(self.limits):
            return "one of " + ", ".join(choice.strip() for choice in choices[1].split(","))
        inner = re.fullmatch(r"list\[(\w+)\]", self.type)
        kind = f"a list, each {SCALAR_NAMES[inner[1]]}" if inner else SCALAR_NAMES[self.type]
        return f"{kind} in {self.limits}" if self.limits else kind


def _coerce(value: object, kind: str) -> object | None:
    """The value as `kind`, or None where it is not one."""
    if kind == "str":
        return value if isinstance(value, str) else None
    if kind == "bool":
        words = {"true": True, "false": False}
        return value if isinstance(value, bool) else words.get(str(value).strip().lower())
    if isinstance(value, bool):
        return None
    try:
        if kind == "int":
            return int(value) if isinstance(value, int | str) else None
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def check_settings(settings: Iterable[Setting], given: dict[str, object]) -> dict[str, object]:
    """Check named values against settings; return them typed.

    Raises:
        SettingError: an unknown name (the nearest known one is offered), a wrong type, or a value
            out of its limits. All the faults are named at once, one a line.
    """
    known = {setting.name: setting for setting in settings}
    checked, faults = {}, []
    for name, value in given.items():
        try:
            if name not in known:
                raise SettingError(unknown_name(name, known))
            checked[name] = known[name].check(value)
        except SettingError as error:
            faults.append(str(error))
    if faults:
        raise SettingError("\n".join(faults))
    return checked


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The sentence that refuses an unknown name and offers the nearest one.

    >>> unknown_name("learningrate", ["learning_rate", "epochs"])
    "there is no parameter 'learningrate'; did you mean 'learning_rate'? (epochs, learning_rate)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no parameter {name!r}{hint} ({', '.join(names)})"


def _setting(default: object, meaning: str, limits: str = "") -> object:
    return field(default=default, metadata={"meaning": meaning, "limits": limits})


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that `finetune` lets a reader choose; wrong values are refused when it is made.

    The defaults are for the embedded 22.7 M parameter encoder and a few hundred to a few thousand
    rows. Larger encoders usually want a smaller rate, 1e-5 to 5e-5 (Devlin et al., 2019, "BERT",
    appendix A.3); the head alone and LoRA want a larger one.

    Raises:
        SettingError: a value of the wrong type or out of its limits.
    """

    method: str = _setting("full", "which weights train", "{full, lora, frozen}")
    learning_rate: float = _setting(1e-4, "peak learning rate of AdamW", "(0, 1]")
    epochs: int = _setting(4, "passes over the training rows", "[1, 1000]")
    batch_size: int = _setting(16, "rows in a micro-batch", "[1, 4096]")
    accumulation_steps: int = _setting(1, "micro-batches in an optimizer step", "[1, 4096]")
    max_length: int = _setting(128, "tokens of a text that are read; the rest is cut", "[4, 8192]")
    warmup_share: float = _setting(0.1, "share of the steps in which the rate rises", "[0, 1)")
    schedule: str = _setting("linear", "how the rate falls", "{linear, cosine, constant}")
    weight_decay: float = _setting(0.01, "AdamW's pull of weight matrices to 0", "[0, 1]")
    max_grad_norm: float = _setting(1.0, "gradient norm above which gradients are scaled", "(0, )")
    label_smoothing: float = _setting(0.0, "probability spread over the other labels", "[0, 1)")
    patience: int = _setting(3, "epochs without a better validation score, then stop", "[1, 1000]")
    save_steps: int = _setting(0, "steps between checkpoints; 0: at the ends of epochs", "[0, )")
    seed: int = _setting(0, "seed of the head, the order of rows and dropout", "[0, 4294967295]")
    precision: str = _setting("auto", "arithmetic; auto: bf16 where fast", "{auto, fp32, bf16}")
    device: str = _setting("auto", "where to train; auto: a GPU if any", "{auto, cpu, cuda, mps}")
    lora_rank: int = _setting(8, "rank of the LoRA update", "[1, 1024]")
    lora_alpha: float = _setting(16.0, "LoRA scale; the update counts alpha / rank", "(0, )")
    lora_dropout: float = _setting(0.0, "dropout before the LoRA update", "[0, 1)")

    def __post_init__(self):
        values = {setting.name: getattr(self, setting.name) for setting in config_settings()}
        for name, value in check_settings(config_settings(), values).items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: object) -> FinetuneConfig:
        """A copy with some settings changed, checked again."""
        check_settings(config_settings(), changes)
        return dataclasses.replace(self, **changes)


def config_settings() -> list[Setting]:
    """The fields of `FinetuneConfig` as settings."""
    return [
        Setting(f.name, f.type, f.default, f.metadata["meaning"], f.metadata["limits"])
        for f in fields(FinetuneConfig)
    ]
