"""The configuration: defaults as published, mistakes named, and the same again from YAML."""

from argparse import Namespace

import pytest

from mmnet.config import Config, ConfigError, field_paths, get_value, load_config, parse_assignment, save_config
from study.command_line import base_config
from tests.test_imports import ROOT

LISTS = ("data.magnifications", "model.pool_scales")
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
OTHER = {  # a valid value of every field that is not its default
    "seed": 3,
    "metric": "patient_auc",
    "data.magnifications": (40, 200),
    "data.image_size": 96,
    "data.grouping": "slide",
    "data.folds": 3,
    "data.test_fraction": 0.0,
    "data.splits": "official:1",
    "data.split_seed": 5,
    "data.on_bad_file": "skip",
    "data.fit": "crop",
    "data.label": "subtype",
    "data.classes": ("adenosis", "fibroadenoma"),
    "data.positive": "tumor",
    "data.mixed_labels": True,
    "sampling.balance": "patient",
    "sampling.views_per_slide": 4,
    "augment.flip": False,
    "augment.turn": False,
    "augment.crop": 1.0,
    "augment.rotation": 30.0,
    "augment.color": 0.0,
    "augment.hue": 0.1,
    "augment.stain": 0.2,
    "augment.blur": 0.3,
    "augment.elastic": 0.2,
    "augment.erase": 0.3,
    "augment.mixup": 0.4,
    "augment.feature_noise": 0.1,
    "augment.masking": 0.3,
    "model.name": "tests.mmnet.test_build:own",
    "model.params": {"depth": 3},
    "model.backbone": "tiny",
    "model.weights": None,
    "model.kwargs": {"init_values": 0.1},
    "model.mean": (0.5, 0.4, 0.3),
    "model.std": (0.2, 0.2, 0.1),
    "model.frozen": True,
    "model.input_size": 96,
    "model.pooled": True,
    "model.shared": False,
    "model.channel_attention": True,
    "model.pool": "gate",
    "model.pool_scales": (1, 3),
    "model.hierarchy": "none",
    "model.importance": False,
    "model.cross_attention": False,
    "model.concatenation": False,
    "model.mixing": "equal",
    "model.width": 64,
    "model.heads": 2,
    "model.hidden": 64,
    "dropout.classifier": 0.0,
    "dropout.fusion": 0.2,
    "dropout.attention": 0.0,
    "dropout.path": 0.3,
    "loss.name": "cross_entropy",
    "loss.alpha": 0.25,
    "loss.gamma": 0.0,
    "loss.label_smoothing": 0.1,
    "optim.lr": 3e-7,
    "optim.backbone_lr": 0.1,
    "optim.weight_decay": 0.0,
    "optim.schedule": "cosine",
    "optim.warmup": 0.1,
    "optim.clip": 5.0,
    "optim.batch_size": 32,
    "optim.epochs": 2,
    "optim.patience": None,
    "optim.precision": "bfloat16",
    "optim.compile": True,
}


def test_the_defaults_are_the_published_ones():
    config = Config()
    assert config.data.magnifications == (40, 100, 200, 400) and config.data.image_size == 224 and config.data.folds == 5
    assert (config.optim.lr, config.optim.patience, config.dropout.classifier) == (1e-4, 7, 0.75)
    assert (config.loss.name, config.loss.alpha, config.loss.gamma) == ("focal", 0.5, 3.0)


@pytest.mark.parametrize("path", field_paths())
def test_every_field_can_be_set_by_its_path_and_nothing_else_changes(path):
    changed = Config().with_values({path: OTHER[path]})
    assert get_value(changed, path) == OTHER[path] != get_value(Config(), path)
    assert [other for other in field_paths() if get_value(changed, other) != get_value(Config(), other)] == [path]


def test_what_stands_in_a_dictionary_has_a_path_of_its_own_and_joins_what_is_there():
    config = Config().with_values({"model.params": {"depth": 3}}).with_values({"model.params.width": 8})
    assert config.model.params == {"depth": 3, "width": 8}
    assert get_value(config, "model.params.depth") == 3 and {"model.params.depth", "model.params.width"} <= set(field_paths(config))
    with pytest.raises(ConfigError, match="configuration model.params = 3: expected a section of names and values"):
        Config().with_values({"model.params": 3})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("loss.gama", "did you mean loss.gamma?"),
        ("lr", "see mmnet/config.py for all keys"),
        ("model.backbon", "did you mean model.backbone?"),
        ("xyzzy", "see mmnet/config.py for all keys"),
        ("", "see mmnet/config.py for all keys"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_hint(key, hint):
    for use in (lambda: Config().with_values({key: 1}), lambda: get_value(Config(), key)):
        with pytest.raises(ConfigError) as error:
            use()
        assert str(error.value) == f"unknown configuration key {key!r}: {hint}"


def test_a_key_in_an_unknown_section_is_an_error_that_names_the_section():
    with pytest.raises(ConfigError, match="unknown configuration key 'xyzzy'"):
        Config().with_values({"xyzzy.q": 1})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.folds", 2.5),
        ("data.folds", True),
        ("data.folds", "five"),
        ("data.folds", None),
        ("data.folds", [5]),
        ("model.frozen", 1),
        ("model.frozen", "yes"),
        ("model.backbone", 3),
        ("model.backbone", None),
        ("optim.lr", "fast"),
        ("optim.lr", float("nan")),
        ("optim.lr", float("inf")),
        ("optim.lr", False),
        ("optim.lr", [1e-4]),
        ("optim.patience", 1.5),
        ("data.magnifications", 40),
        ("data.magnifications", ["wide"]),
        ("data.magnifications", "40,100"),
        ("model.pool_scales", [1.5]),
        ("loss", 3),
        ("loss", None),
        ("loss", [1]),
        ("seed", {"x": 1}),
        ("metric", 7),
    ],
)
def test_a_wrong_type_is_an_error_that_names_the_field_and_the_value(path, value):
    with pytest.raises(ConfigError, match="expected") as error:
        Config().with_values({path: value})
    item = value[0] if path in LISTS and isinstance(value, list) else value
    assert path in str(error.value) and repr(item) in str(error.value)


@pytest.mark.parametrize(
    ("path", "bad", "good"),
    [
        ("seed", (-1, 2**31), (0, 2**31 - 1)),
        ("metric", ("loss", ""), ("auc", "patient_brier")),
        ("data.magnifications", ([], [100, 40], [40, 40], [0, 40], [-40]), ([200], [7, 9])),
        ("data.image_size", (31, 1025), (32, 1024)),
        ("data.grouping", ("person",), ("patient", "slide")),
        ("data.folds", (1, 51), (2, 50)),
        ("data.test_fraction", (-0.1, 0.9, 1), (0, 0.89)),
        ("data.split_seed", (-1, 2**31), (0, 2**31 - 1)),
        ("data.on_bad_file", ("ignore",), ("skip",)),
        ("data.fit", ("stretch",), ("squash", "crop", "pad")),
        ("data.label", ("kind",), ("class", "subtype")),
        ("data.classes", ([], ["benign"]), (["a", "b"], None)),
        ("sampling.balance", ("classes",), ("none", "class_patient")),
        ("sampling.views_per_slide", (0, 1001), (1, None)),
        ("augment.crop", (0.05, 1.01), (0.1, 1)),
        ("augment.rotation", (-0.1, 180.1), (0, 180)),
        ("augment.color", (-0.1, 0.95), (0, 0.9)),
        ("augment.stain", (-0.1, 0.95), (0, 0.9)),
        ("augment.erase", (-0.1, 1.1), (0, 1)),
        ("augment.mixup", (-0.1, 10.1), (0, 10)),
        ("augment.feature_noise", (-0.1, 2.1), (0, 2)),
        ("augment.masking", (-0.1, 0.95), (0, 0.9)),
        ("model.input_size", (31, 225), (32, 224, None)),  # at most data.image_size
        ("model.hierarchy", ("both",), ("causal", "bidirectional", "none")),
        ("model.mixing", ("gated",), ("learned", "equal")),
        ("model.width", (3, 0, 4098), (4, 4096)),
        ("model.heads", (0, 3, 65, 256), (1, 64)),
        ("model.pool_scales", ([], [0], [-1], [65]), ([1], [7, 64])),
        ("dropout.classifier", (-0.1, 0.96, 1), (0, 0.95)),
        ("dropout.fusion", (-0.1, 0.96), (0, 0.95)),
        ("dropout.attention", (-0.1, 0.96), (0, 0.95)),
        ("dropout.path", (-0.1, 1), (0, 0.95)),
        ("loss.name", ("bce",), ("focal", "cross_entropy")),
        ("loss.alpha", (0, 1, -0.5), (0.01, 0.99)),
        ("loss.gamma", (-0.1, 10.1), (0, 10)),
        ("loss.label_smoothing", (-0.1, 0.6), (0, 0.5)),
        ("optim.lr", (0, -1, 1.1), (1e-9, 1)),
        ("optim.backbone_lr", (-0.1, 11), (0, 10)),
        ("optim.weight_decay", (-1e-9, 1.1), (0, 1)),
        ("optim.schedule", ("step",), ("plateau", "cosine", "constant")),
        ("optim.warmup", (-0.1, 1.1), (0, 1)),
        ("optim.clip", (0, -1), (0.01, 1000)),
        ("optim.batch_size", (0, 5000), (1, 4096, None)),
        ("optim.precision", ("half", "bf16"), ("auto", "float32", "bfloat16", "float16")),
        ("model.pool", ("max", "gated"), ("gate", "softmax", "mean")),
        ("augment.blur", (-0.1, 1.1), (0, 1)),
        ("optim.compile", ("auto", 1), (True, False, None)),
        ("optim.epochs", (0, 10_001), (1, 10_000)),
        ("optim.patience", (0, 10_001), (1, None)),
    ],
)
def test_a_value_out_of_range_is_an_error_and_its_bounds_are_not(path, bad, good):
    for value in bad:
        with pytest.raises(ConfigError) as error:
            Config().with_values({path: value})
        assert path in str(error.value) and "expected" in str(error.value)
    for value in good:
        Config().with_values({path: value})


@pytest.mark.parametrize(("former", "today"), [(True, "auto"), (False, "float32")])
def test_configurations_of_earlier_studies_say_amp(tmp_path, former, today):
    kept = Config().to_dict()
    kept["optim"] = {name: value for name, value in kept["optim"].items() if name != "precision"} | {"amp": former}
    (tmp_path / "old.yaml").write_text(f"optim: {{amp: {str(former).lower()}}}\n")
    for config in (Config().with_values(kept), Config().with_values({"optim.amp": former}), load_config(tmp_path / "old.yaml")):
        assert config == Config().with_values({"optim.precision": today})
    with pytest.raises(ConfigError, match="optim.amp"):
        Config().with_values({"optim.amp": "yes"})


def test_configurations_of_earlier_studies_call_a_patient_case_and_a_slide_patient(tmp_path):
    kept = Config().to_dict()
    kept["data"]["grouping"] = "case"
    kept["sampling"] = {"balance": "class", "views_per_patient": 4}
    (tmp_path / "old.yaml").write_text("data: {grouping: case}\nsampling: {views_per_patient: 4}\n")
    flat = {"data.grouping": "case", "sampling.views_per_patient": 4}
    for config in (Config().with_values(kept), Config().with_values(flat), load_config(tmp_path / "old.yaml")):
        assert config == Config().with_values({"data.grouping": "patient", "sampling.views_per_slide": 4})
    with pytest.raises(ConfigError, match=r"sampling\.views_per_slide = 0"):
        Config().with_values({"sampling.views_per_patient": 0})


def test_fields_that_only_fit_together_are_set_together():
    config = Config().with_values({"model.heads": 3, "model.width": 6})
    assert (config.model.heads, config.model.width) == (3, 6)


def test_whole_numbers_and_texts_are_read_as_the_field_means_them():
    config = Config().with_values(
        {"optim.lr": "1e-4", "optim.weight_decay": "1e-2", "loss.gamma": 2, "optim.epochs": "1e1", "data.folds": 3.0}
    )
    assert (config.optim.lr, config.optim.weight_decay, config.loss.gamma, config.optim.epochs, config.data.folds) == (
        1e-4,
        1e-2,
        2.0,
        10,
        3,
    )
    assert isinstance(config.loss.gamma, float) and isinstance(config.data.folds, int)


@pytest.mark.parametrize("values", [{"loss": {"gamma": 1}, "loss.alpha": 0.3}, {"loss.alpha": 0.3, "loss": {"gamma": 1}}])
def test_a_section_set_as_a_whole_and_by_its_fields_is_an_error_in_either_order(values):
    with pytest.raises(ConfigError, match="loss is set as a whole and by its fields"):
        Config().with_values(values)


def test_a_section_can_be_set_as_a_whole():
    assert Config().with_values({"loss": {"gamma": 1, "alpha": 0.3}}).loss.alpha == 0.3


@pytest.mark.parametrize("values", [{}, OTHER], ids=["defaults", "nothing default"])
def test_a_configuration_survives_yaml(tmp_path, values):
    config = Config().with_values(values)
    save_config(config, tmp_path / "config.yaml", "two lines\nof comment")
    assert (tmp_path / "config.yaml").read_text().startswith("# two lines\n# of comment\n")
    assert load_config(tmp_path / "config.yaml") == config


def test_a_file_changes_only_what_it_says(tmp_path):
    (tmp_path / "part.yaml").write_text("loss: {gamma: 1e-1}\nseed: 4\n")
    base = Config().with_values({"seed": 9, "loss.alpha": 0.3})
    assert load_config(tmp_path / "part.yaml", base) == base.with_values({"seed": 4, "loss.gamma": 0.1})


@pytest.mark.parametrize(
    "content",
    [b"", b"- 1\n", b"just text", b"a: [1\n", b"loss: {gama: 1}\n", b"loss: 3\n", b"data:\n", b"1: 2\n", b"\xff\xfe\xfa", b"seed: -1\n"],
)
def test_a_file_that_is_no_configuration_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="bad.yaml"):
        load_config(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads(path):
    assert load_config(path) != Config()


def test_there_is_a_preset_for_the_synthetic_data():
    assert "synthetic" in [path.stem for path in PRESETS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss.gamma=2", ("loss.gamma", 2)),
        ("model.weights=null", ("model.weights", None)),
        ("model.pool_scales=[1, 3]", ("model.pool_scales", [1, 3])),
        ("model.frozen=true", ("model.frozen", True)),
        ("optim.lr=1e-4", ("optim.lr", "1e-4")),
        ("data.splits=a=b.json", ("data.splits", "a=b.json")),
    ],
)
def test_an_assignment_is_a_path_and_a_yaml_value(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["loss.gamma", "=3", "", "loss.gamma=[1"])
def test_text_that_assigns_nothing_is_an_error(text):
    with pytest.raises(ConfigError, match="--set"):
        parse_assignment(text)


def test_published_rules_are_written_out_and_follow_balanced_accuracy():
    published = load_config(ROOT / "configs" / "published.yaml")
    assert published.metric == "balanced_accuracy" and (published.optim.patience, published.optim.epochs) == (7, 25)
    assert (published.loss.name, published.loss.alpha, published.loss.gamma, published.dropout.classifier) == ("focal", 0.5, 3.0, 0.75)
    assert (published.optim.lr, published.optim.weight_decay, published.optim.schedule) == (1e-4, 3e-3, "plateau")
    assert (published.augment.mixup, published.loss.label_smoothing, published.optim.clip) == (0.2, 0.1, 1.0)


def test_a_configuration_is_found_by_its_name_or_its_path(tmp_path):
    def base(name):
        return base_config(Namespace(config=str(name), set=[]), synthetic=False)

    assert base("published") == base(ROOT / "configs" / "published.yaml") == load_config(ROOT / "configs" / "published.yaml")
    with pytest.raises(ConfigError, match="--config publisht: no such file; pass a YAML file or one of published, synthetic"):
        base("publisht")
