"""Prediction with networks that were left on disk."""

import json

import numpy as np
import pytest
import torch

from data.errors import InputError
from mmnet.batches import Batches
from mmnet.predict import load_networks, predict, predict_ensemble, predict_out_of_fold
from study.records import write_weights
from tests.mmnet.tiny import CPU, feature_dataset, pixel_dataset, tiny_config, train

NEW = feature_dataset(patients=4, seed=5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(folder, trial) of a trained trial's weights. Read only."""
    folder = tmp_path_factory.mktemp("models")
    trial, _ = train(tiny_config({"model.frozen": True, "optim.epochs": 2}), feature_dataset())
    write_weights(folder, trial)
    return folder, trial


def test_each_fold_network_judges_every_image(models):
    folder, trial = models
    probability, views, index = predict_ensemble(folder, trial.config, NEW, CPU)
    assert index.slides[np.unique(views.slide)].tolist() == sorted(set(NEW.table.slide.tolist()))
    assert set(views.rows.ravel().tolist()) == set(range(len(NEW.table)))
    batches = Batches(NEW, trial.config, CPU)
    each = [predict(network, batches, views.rows)[0] for network in load_networks(folder, trial.config, NEW, CPU)]
    assert not np.array_equal(*each)
    np.testing.assert_array_equal(probability, each)


def test_each_view_is_judged_by_the_network_that_did_not_see_its_fold(models):
    _, trial = models
    oof = trial.out_of_fold
    mixed = np.random.default_rng(0).permutation(len(oof.rows))
    probability = predict_out_of_fold(trial.networks, trial.batches, oof.rows[mixed], oof.fold[mixed])
    np.testing.assert_allclose(probability, trial.history[-1].probability[mixed], rtol=1e-5)


@pytest.mark.parametrize("limit", [3, 0], ids=["less at once", "not even one"])
def test_where_memory_runs_out_half_as_many_views_go_at_once(models, limit):
    _, trial = models
    rows, batches, network = trial.out_of_fold.rows, Batches(feature_dataset(), trial.config, CPU), trial.networks[0]
    whole, tried = predict(network, batches, rows), []

    def check(_, inputs):
        tried.append(len(inputs[0]))
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = network.register_forward_pre_hook(check)
    try:
        if limit == 0:
            with pytest.raises(torch.OutOfMemoryError):
                predict(network, batches, rows)
            assert tried == [16, 8, 4, 2, 1]
            return
        for _ in range(2):  # the second time it knows
            for found, expected in zip(predict(network, batches, rows), whole, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert tried == [16, 8, 4, *[2] * 16]
    finally:
        hook.remove()


def test_weights_say_what_they_are_of(models):
    folder, trial = models
    about = json.loads((folder / "network.json").read_text())
    assert about == {"config": trial.config.to_dict(), "best_epoch": trial.history[-1].best_epoch, "folds": 2}


def test_networks_with_a_trained_backbone_need_no_original_weights(tmp_path):
    dataset = pixel_dataset(patients=4, images=1)
    trial, reports = train(tiny_config({"optim.epochs": 1, "model.shared": False}), dataset)
    write_weights(tmp_path, trial)
    networks = load_networks(tmp_path, trial.config, dataset, CPU)
    held = trial.out_of_fold.fold == 0
    np.testing.assert_array_equal(predict(networks[0], trial.batches, trial.out_of_fold.rows[held])[0], reports[0].probability[held])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "network.json").unlink(),
        lambda folder: (folder / "network.json").write_text("{}"),
        lambda folder: (folder / "fold_2.safetensors").unlink(),
        lambda folder: (folder / "fold_2.safetensors").write_bytes((folder / "fold_2.safetensors").read_bytes()[:100]),
    ],
    ids=["no network.json", "empty network.json", "a fold is missing", "a fold is damaged"],
)
def test_damaged_models_are_an_input_error(tmp_path, models, damage):
    folder, trial = models
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(InputError, match="absent, damaged or of another configuration"):
        load_networks(tmp_path, trial.config, NEW, CPU)


def test_models_of_another_configuration_are_an_input_error(models):
    folder, trial = models
    with pytest.raises(InputError, match="of another configuration"):
        load_networks(folder, trial.config.with_values({"model.width": 16}), NEW, CPU)
