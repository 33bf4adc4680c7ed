"""Settings: what is taken, what is refused, and in which words."""

import json
import subprocess
import sys

import pytest

from utils.settings import (
    FinetuneConfig,
    Setting,
    SettingError,
    check_settings,
    config_settings,
    unknown_name,
)


def setting(kind, limits="", default=1):
    return Setting("x", kind, default, "meaning", limits)


@pytest.mark.parametrize(
    ("limits", "taken", "refused"),
    [
        ("(0, 1]", [0.001, 1], [0, 1.001, -1]),
        ("[0, 1)", [0, 0.999], [1, -0.001]),
        ("(0, 1)", [0.5], [0, 1]),
        ("[0, 1]", [0, 1], [-0.1, 1.1]),
        ("[1, )", [1, 1e9], [0.999]),
        ("(, 2)", [-1e9, 1.9], [2]),
    ],
)
def test_interval_edges_are_open_or_closed_as_written(limits, taken, refused):
    for value in taken:
        assert setting("float", limits).check(value) == value
    for value in refused:
        with pytest.raises(SettingError, match="is not accepted"):
            setting("float", limits).check(value)


def test_choices():
    choice = setting("str", "{full, lora, frozen}", "full")
    assert choice.check("lora") == "lora"
    with pytest.raises(SettingError, match="one of full, lora, frozen"):
        choice.check("LoRA")


@pytest.mark.parametrize(
    ("kind", "given", "typed"),
    [
        ("float", "1e-4", 1e-4),
        ("float", 2, 2.0),
        ("int", "3", 3),
        ("int", " 7 ", 7),
        ("bool", "true", True),
        ("bool", "False", False),
        ("bool", True, True),
        ("str", "3", "3"),
        ("list[int]", "1, 2,3", [1, 2, 3]),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[int]", "[]", []),
        ("list[int]", (4, 5), [4, 5]),
        ("list[float]", [1, "2e-1"], [1.0, 0.2]),
        ("list[str]", "kind, domain", ["kind", "domain"]),
        ("list[str]", '["kind", "domain"]', ["kind", "domain"]),
    ],
)
def test_values_come_back_in_their_type(kind, given, typed):
    found = setting(kind).check(given)
    assert found == typed
    assert type(found) is type(typed)
    if isinstance(typed, list):
        assert [type(item) for item in found] == [type(item) for item in typed]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("int", True),
        ("float", False),
        ("int", 3.0),
        ("int", "3.0"),
        ("int", "three"),
        ("int", None),
        ("float", "nan"),
        ("float", float("inf")),
        ("float", "-inf"),
        ("float", 10**400),
        ("float", "much"),
        ("float", [1.0]),
        ("bool", 1),
        ("bool", "yes"),
        ("str", 3),
        ("list[int]", 3),
        ("list[int]", "[1, 2"),
        ("list[int]", "[1, x]"),
        ("list[int]", "1,two"),
        ("list[int]", [True]),
        ("list[str]", {"a": 1}),
    ],
)
def test_wrong_types_are_refused(kind, given):
    with pytest.raises(SettingError, match=r"x = .* is not accepted"):
        setting(kind).check(given)


def test_limits_hold_for_every_item_of_a_list():
    sizes = setting("list[int]", "[4, )", [50])
    assert sizes.check([4, 100]) == [4, 100]
    with pytest.raises(SettingError, match=r"x = 3 .* each a whole number in \[4, \)"):
        sizes.check([100, 3])


def test_refusal_says_what_was_given_what_is_accepted_and_an_example():
    rate = Setting("learning_rate", "float", 1e-4, "peak rate", "(0, 1]")
    with pytest.raises(SettingError) as refusal:
        rate.check("fast")
    assert str(refusal.value) == (
        "learning_rate = 'fast' is not accepted; expected a number in (0, 1] (peak rate), "
        "for example 0.0001."
    )


def test_all_faults_are_named_at_once():
    given = {"epochs": 0, "learning_rate": "fast", "batchsize": 8, "seed": 3}
    with pytest.raises(SettingError) as refusal:
        check_settings(config_settings(), given)
    lines = str(refusal.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epochs = 0 is not accepted")
    assert lines[1].startswith("learning_rate = 'fast' is not accepted")
    assert "did you mean 'batch_size'?" in lines[2]


def test_nearest_name_is_offered_only_where_one_is_near():
    assert "did you mean 'epochs'?" in unknown_name("epoch", ["epochs", "seed"])
    assert "did you mean" not in unknown_name("zzz", ["epochs", "seed"])
    assert "epochs, seed" in unknown_name("zzz", ["seed", "epochs"])


def test_defaults_of_the_config_are_accepted_and_typed():
    config = FinetuneConfig()
    assert (config.method, config.learning_rate, config.epochs) == ("full", 1e-4, 4)
    for one in config_settings():
        assert one.check(one.default) == one.default


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "half"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 4097),
        ("accumulation_steps", 0),
        ("max_length", 3),
        ("warmup_share", 1.0),
        ("schedule", "step"),
        ("weight_decay", -0.1),
        ("max_grad_norm", 0),
        ("label_smoothing", 1),
        ("patience", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("precision", "fp16"),
        ("device", "gpu"),
        ("lora_rank", 0),
        ("lora_alpha", 0),
        ("lora_dropout", 1.0),
        ("epochs", True),
    ],
)
def test_config_refuses_each_kind_of_wrong_value(name, value):
    with pytest.raises(SettingError, match=f"^{name} = "):
        FinetuneConfig(**{name: value})


def test_config_reads_text_as_the_command_line_gives_it():
    config = FinetuneConfig(learning_rate="3e-5", epochs="2")
    assert (config.learning_rate, config.epochs) == (3e-5, 2)


def test_replace_changes_checks_and_refuses_unknown_names():
    config = FinetuneConfig()
    changed = config.replace(epochs=5, learning_rate="1e-3")
    assert (changed.epochs, changed.learning_rate, config.epochs) == (5, 1e-3, 4)
    with pytest.raises(SettingError, match="did you mean 'learning_rate'"):
        config.replace(learning_rat=1e-3)
    with pytest.raises(SettingError, match="epochs = 0"):
        config.replace(epochs=0)


def test_config_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        FinetuneConfig().epochs = 5


@pytest.mark.parametrize("module", ["utils", "utils.settings", "utils.data", "utils.notebooks"])
def test_importing_light_modules_does_not_import_torch(module):
    code = f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert module in loaded
    assert not {"torch", "transformers", "datasets", "papermill"} & set(loaded)
