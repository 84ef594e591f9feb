"""The members of a mean: the YAML files of a folder, which must agree in what says what data and folds are."""

import re
from argparse import Namespace

import pytest

from data.errors import InputError
from mmnet.config import ConfigError, save_config
from study.command_line import base_config, base_configs
from study.members import differences
from tests.mmnet.tiny import tiny_config

BASE = tiny_config({"model.frozen": True, "optim.precision": "float32"})


def given(folder, **flags) -> Namespace:
    return Namespace(config=str(folder), set=[], **flags)


@pytest.fixture
def folder(tmp_path):
    save_config(BASE, tmp_path / "0026.yaml")
    return tmp_path


def test_they_stand_in_the_order_of_their_names_and_flags_are_for_all(folder):
    save_config(BASE.with_values({"loss.gamma": 1.0, "model.width": 16}), folder / "0011.yaml")
    save_config(BASE, folder / "b.yml")
    (folder / "notes.txt").write_text("no configuration")
    (folder / ".0007.yaml").write_text("of an editor")
    members = base_configs(given(folder, flag_epochs=9), synthetic=True)
    assert list(members) == ["0011", "0026", "b.yml"] and {config.optim.epochs for config in members.values()} == {9}
    assert differences(members["0026"], members["0011"]) == {"model.width": 16, "loss.gamma": 1.0}


def test_a_folder_of_one_file_is_that_configuration(folder):
    assert base_configs(given(folder), synthetic=True) == {"": BASE} == {"": base_config(given(folder / "0026.yaml"), synthetic=False)}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data.folds": 3}, "data.folds = 3, but {first} has 2"),
        ({"data.magnifications": [40]}, "data.magnifications = (40,), but {first} has (40, 100, 200, 400)"),
        ({"seed": 5}, "seed = 5, but {first} has 0"),
        ({"metric": "auc"}, "metric = auc, but {first} has log_loss"),
        ({"model.pooled": True}, "model.pooled = True, but {first} has False"),
        ({"model.frozen": False}, "model.frozen = False, but {first} has True"),
        ({"model.backbone": "resnet18"}, "model.backbone = resnet18, but {first} has tiny"),
        ({"optim.precision": "bfloat16"}, "optim.precision = bfloat16, but {first} has float32"),
    ],
)
def test_another_data_set_folds_metric_or_features_are_refused_by_file_field_and_both_values(folder, values, said):
    save_config(BASE.with_values(values), folder / "0030.yaml")
    expected = f"{folder / '0030.yaml'}: {said.format(first=folder / '0026.yaml')}"
    with pytest.raises(InputError, match=re.escape(expected)):
        base_configs(given(folder), synthetic=False)


def test_trained_backbones_may_differ(folder):
    for name, values in (("0026", {}), ("0030", {"model.width": 16, "model.shared": False, "model.backbone": "resnet18"})):
        save_config(BASE.with_values({"model.frozen": False} | values), folder / f"{name}.yaml")
    assert len(base_configs(given(folder), synthetic=False)) == 2


def test_an_empty_folder_and_a_file_that_is_no_configuration_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: no YAML file in that folder; expected one for each configuration"):
        base_configs(given(tmp_path / "empty"), synthetic=False)
    (folder / "0030.yaml").write_text("loss: {gama: 2}")
    with pytest.raises(ConfigError, match=r"0030.yaml: unknown configuration key 'loss.gama': did you mean loss.gamma?"):
        base_configs(given(folder), synthetic=False)


def test_where_one_configuration_is_expected_several_are_an_error(folder):
    save_config(BASE, folder / "0030.yaml")
    with pytest.raises(ConfigError, match=r"a folder of several configurations is for main.py; expected one YAML file"):
        base_config(given(folder), synthetic=False)
