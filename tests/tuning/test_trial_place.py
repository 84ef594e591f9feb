"""Whether every node sees the study's folder, and what is said where one does not."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from rich.console import Console

from data.errors import InputError, StorageError
from data.splits import make_splits
from data.store import load_dataset
from mmnet.backbones import build_backbone
from mmnet.config import Config
from study.bucket import Bucket
from study.mirror import Mirror
from study.records import read_trials
from tests.mmnet.tiny import tiny_config
from tests.object_store import object_store  # noqa: F401
from tests.tuning.test_study import heads
from tuning import study as study_module
from tuning import trial_place
from tuning.cluster import joining
from tuning.settings import StudySettings
from tuning.study import run_study
from tuning.trial_place import MARKER, TrialPlace, marked, reachable, require_shared, require_weights, seen_by_nodes, weights_read


def test_a_folder_that_every_node_sees_is_taken(tmp_path):
    require_shared(tmp_path, {"10.0.0.1": True, "10.0.0.2": True})
    require_shared(tmp_path, {})


def test_a_folder_that_a_node_does_not_see_is_an_error_that_names_the_nodes_and_both_ways_out(tmp_path):
    with pytest.raises(StorageError, match=rf"^--output {tmp_path}: not the same folder on b, c, .* all nodes share .* s3://") as error:
        require_shared(tmp_path / "s", {"a": True, "c": False, "b": False})
    assert "\n" not in str(error.value)


def test_a_marker_has_a_new_name_each_time_and_none_is_left_behind(tmp_path):
    with marked(tmp_path) as first:
        assert (tmp_path / first).exists()
    (tmp_path / first).touch()  # as after a driver that was killed
    with marked(tmp_path) as second:
        assert first != second and [path.name for path in tmp_path.iterdir()] == [second]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_of_storage(tmp_path):
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/gone/{MARKER}"), marked(tmp_path / "gone"):
        pass


@pytest.mark.parametrize("asked", [{"model.frozen": True}, {"model.weights": None}, {"model.weights": "imagenet"}, {}])
def test_weights_to_fine_tune_that_a_node_lacks_are_an_error_that_names_it_before_any_trial(monkeypatch, asked):
    model = Config().with_values({"model.frozen": False, "model.weights": "/weights.safetensors"} | asked).model
    monkeypatch.setattr(trial_place, "seen_by_nodes", lambda file: {"a": True, f"b without {file}": False})
    if asked:
        assert weights_read(model) == ""
        require_weights("")
        return
    with pytest.raises(
        StorageError, match=r"^--weights /weights.safetensors: no such file on b without /weights.safetensors, .* --frozen"
    ) as error:
        require_weights(weights_read(model))
    assert "\n" not in str(error.value)


def test_a_node_that_joined_later_and_lacks_the_weights_says_so_before_its_first_epoch(tmp_path):
    place = TrialPlace(tmp_path / "s", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(StorageError, match=rf"^--weights {tmp_path}/w.safetensors: no such file on .* --frozen"):
        place.take_up(place.mirror(), tmp_path / "s" / "trials" / "0000")
    (tmp_path / "w.safetensors").touch()
    place.take_up(place.mirror(), tmp_path / "s" / "trials" / "0000")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_weights_that_a_node_lacks_end_the_study_with_that_line_and_no_trial_has_failed(synthetic_dataset, tmp_path, monkeypatch):
    """The node that joined later is this one, which loses the file when the study has begun."""
    splits = make_splits(synthetic_dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
    config, weights = tiny_config({"model.backbone": "timm:test_vit"}), tmp_path / "w.pth"
    torch.save(build_backbone(config.model, 32, 0).body.model.state_dict(), weights)
    put = study_module.tune.with_parameters

    def put_and_forget(trainable, **parameters):
        weights.unlink()
        return put(trainable, **parameters)

    monkeypatch.setattr(study_module.tune, "with_parameters", put_and_forget)
    config, study = config.with_values({"model.weights": str(weights)}), StudySettings(name="s", output=tmp_path, trials=4)
    with pytest.raises(InputError, match=f"^--weights {weights}: no such file on ") as error:
        run_study(study, heads(2, 4), config, (), synthetic_dataset, splits, Console(quiet=True))
    assert "\n" not in str(error.value) and read_trials(study.folder) == []


def test_a_node_that_joined_later_and_sees_no_marker_says_so_before_its_first_epoch(tmp_path):
    place = TrialPlace(tmp_path / "s", marker=f"{MARKER}1")
    with pytest.raises(StorageError, match="not the same folder on"):
        place.take_up(place.mirror(), tmp_path / "s" / "trials" / "0000")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / place.marker).touch()
    place.take_up(place.mirror(), tmp_path / "s" / "trials" / "0000")


def test_in_an_object_store_a_worker_takes_a_trial_up_as_the_last_process_left_it(object_store, tmp_path):  # noqa: F811
    url = f"s3://studies/out/s?{object_store.query}"
    before = Mirror(tmp_path / "before", Bucket(url))
    left = before.folder / "trials" / "0003"
    left.mkdir(parents=True)
    for name in ("checkpoint.pt", "status.json", "events.out.tfevents.1"):
        (left / name).write_text("left")
    before.push()
    with reachable(tmp_path / "driver" / "s", Mirror(tmp_path / "driver" / "s", Bucket(url))) as place:
        mirror = place.mirror()
        folder = mirror.folder / "trials" / "0003"
        folder.mkdir(parents=True)
        (folder / "predictions.npz").write_text("of an earlier process on this node")
        place.take_up(mirror, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "status.json"] and not folder.is_relative_to(
        tmp_path / "driver"
    )


@pytest.fixture
def two_nodes(monkeypatch):
    """A driver on a node without cores, and two nodes that run trials."""
    short = tempfile.TemporaryDirectory()  # a socket's path holds 107 characters, less than pytest's folders
    monkeypatch.setenv("RAY_TMPDIR", short.name)  # where Ray notes the cluster for whoever starts it next on this machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    short.cleanup()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_every_node_is_asked_and_a_study_in_a_folder_that_one_lacks_starts_no_trial(two_nodes, tmp_path, monkeypatch):
    """The nodes of this cluster are processes of one machine: what one does not see is told by its task."""
    nodes = [node.node_id for node in two_nodes.worker_nodes]

    def look(marker: Path) -> bool:
        return marker.exists() and ray.get_runtime_context().get_node_id() != nodes[1]

    with joining(two_nodes.address) as connected:
        connected.result()
        (tmp_path / "marker").touch()
        assert sorted(seen_by_nodes(tmp_path / "marker", look).values()) == [False, True]
        assert list(seen_by_nodes(tmp_path / "marker").values()) == [True, True]
        monkeypatch.setattr(trial_place, "seen_by_nodes", lambda marker: seen_by_nodes(marker, look))
        with pytest.raises(StorageError, match=f"not the same folder on .*{nodes[1][:8]}") as error, reachable(tmp_path, Mirror(tmp_path)):
            pytest.fail("the study went on")
    assert nodes[0][:8] not in str(error.value)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_trials_run_on_nodes_that_have_neither_data_nor_cache_nor_a_shared_folder(
    two_nodes, object_store, synthetic_root, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    """Ray brings images to every node once; data and cache are gone before the first worker starts."""
    cache = tmp_path / "cache"  # of this test alone: it is removed
    monkeypatch.setenv("MMNET_CACHE", str(cache))
    data = shutil.copytree(synthetic_root, tmp_path / "data")
    dataset = load_dataset(data, 32)
    assert isinstance(dataset.images, np.memmap)
    splits = make_splits(dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
    study = StudySettings(name="s", output=tmp_path / "driver", trials=4)
    put, seen = study_module.tune.with_parameters, []

    def put_and_forget(trainable, **parameters):
        bound = put(trainable, **parameters)
        seen.append(parameters["dataset"])
        shutil.rmtree(data)
        shutil.rmtree(cache / "images")
        return bound

    monkeypatch.setattr(study_module.tune, "with_parameters", put_and_forget)
    bucket = Bucket(f"s3://studies/out/s?{object_store.query}")
    with joining(two_nodes.address) as connected:
        mirror = Mirror(study.folder.resolve(), bucket)
        outcome = run_study(study, heads(2, 4), tiny_config(), (), dataset, splits, Console(quiet=True), connected, mirror=mirror)
    assert outcome.complete and len(seen) == 1 and not data.exists()
    whole = Mirror(tmp_path / "copy", bucket)
    whole.pull()
    assert [record.status for record in read_trials(whole.folder)] == ["done"] * 4
