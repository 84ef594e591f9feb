"""k folds in lockstep: they learn, they do not leak, they repeat, and they go on as if never stopped."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.bootstrap import bootstrap_interval
from data.errors import DataError, LeakageError
from data.splits import Splits
from data.store import load_dataset
from data.synthetic import generate
from data.views import MISSING
from mmnet import crossval
from mmnet.crossval import CrossValidation, TrainingError, micro_batches
from mmnet.metrics import evaluate
from mmnet.predict import load_networks, predict
from mmnet.seeds import derive_seed
from study.records import TrialWriter, write_weights
from tests.mmnet.tiny import CPU, deal, feature_dataset, pixel_dataset, tiny_config, train

PIXELS, FEATURES = pixel_dataset(), feature_dataset()
FEATURES_OF_12 = feature_dataset(patients=12)
POOLED = replace(FEATURES, features=FEATURES.features[:, :, :1, :1])
FROZEN = {"model.frozen": True}
STILL = {f"dropout.{place}": 0.0 for place in ("classifier", "fusion", "attention", "path")} | {
    "augment.flip": False,
    "augment.turn": False,
    "augment.crop": 1.0,
    "augment.color": 0.0,
    "augment.stain": 0.0,
}
RANDOM = {
    "augment.mixup": 0.4,
    "augment.masking": 0.3,
    "augment.feature_noise": 0.2,
    "augment.erase": 0.3,
    "dropout.path": 0.2,
    "dropout.classifier": 0.5,
}
KINDS = pytest.mark.parametrize(
    ("values", "dataset"), [({}, PIXELS), (FROZEN, FEATURES), (FROZEN, POOLED)], ids=["fine-tuned", "frozen", "pooled"]
)
UNLEARNING = {"optim.lr": 1e-12, "metric": "balanced_accuracy"}  # the score never changes


def numbers(reports):
    """Everything that a trial's reports say but the time they took."""
    return [
        (
            r.epoch,
            r.metrics,
            r.fold_metrics,
            r.train_loss,
            r.lr,
            r.score,
            r.best_epoch,
            r.finished,
            r.probability.tolist(),
            r.importance.tolist(),
        )
        for r in reports
    ]


def weights_of(trial):
    return [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in trial.networks]


def watched(trial):
    """(rows and labels of each batch that the trial trains on, rows of each that it judges), which fill as it goes on."""
    trained, judged = [], []
    training, evaluation = trial.batches.training, trial.batches.evaluation
    trial.batches.training = lambda rows, label, generator: trained.append((rows, label)) or training(rows, label, generator)
    trial.batches.evaluation = lambda rows: judged.append(rows) or evaluation(rows)
    return trained, judged


def altered(dataset, rows):
    """The data set with other pixels, or features, in some rows."""
    if dataset.features is None:
        images = dataset.images.copy()
        images[rows] //= 3
        return replace(dataset, images=images)
    features = dataset.features.copy()
    features[rows, 0] += 3  # one channel: what moves all of them alike is normalised away
    return replace(dataset, features=features)


# learning ------------------------------------------------------------------------------------------------------------


def test_eight_patients_are_learned_by_heart_and_new_ones_recognised(tmp_path):
    root = generate(tmp_path, patients=8, images=2, size=40, seed=0, knowledge=dict.fromkeys((40, 100, 200, 400), 4.0), malignant=0.5)
    config = tiny_config(STILL | {"loss.name": "cross_entropy", "optim.schedule": "constant", "optim.epochs": 20, "optim.patience": None})
    _, reports = train(config, load_dataset(root, 32))
    assert max(reports[0].train_loss) > 0.2  # half of ln 2 is knowing nothing
    assert max(reports[-1].train_loss) < 0.05
    assert reports[-1].metrics["patient_auc"] == 1.0


@pytest.mark.parametrize("leak", [False, True], ids=["patient-wise", "with a planted leak"])
def test_labels_that_mean_nothing_cannot_be_predicted_for_held_out_patients(leak):
    dataset = feature_dataset(patients=40, signal=0.0, signature=3.0)  # each patient is easy to recognise
    label_of = dict(
        zip(sorted(set(dataset.table.patient.tolist())), np.random.default_rng(0).permutation(np.arange(40) % 2).tolist(), strict=True)
    )
    labels = np.array([label_of[patient] for patient in dataset.table.patient.tolist()])
    dataset = replace(dataset, table=replace(dataset.table, label=labels))
    config = tiny_config(FROZEN | STILL | {"optim.epochs": 40, "optim.patience": None, "optim.batch_size": 16, "model.width": 32})
    trial = CrossValidation(config, dataset, deal(dataset), CPU)
    if leak:
        trial.train_slides = [np.arange(40)] * 2
    report = list(trial)[-1]
    oof = trial.out_of_fold
    interval = bootstrap_interval(
        "patient_auc", report.probability[:, 1], oof.label, oof.patient, rng=np.random.default_rng(0), count=500, level=0.99
    )
    assert (interval.low <= 0.5 <= interval.high) == (not leak)
    bound = 3 * math.sqrt((20 + 20 + 1) / (12 * 20 * 20))  # three standard deviations of Mann-Whitney's U, as an AUC
    assert (abs(interval.value - 0.5) < bound) == (not leak)


# leakage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 4])
def test_every_development_image_is_judged_and_by_a_fold_that_did_not_train_on_its_patient(folds):
    splits = deal(FEATURES, folds)
    trial = CrossValidation(tiny_config(FROZEN), FEATURES, splits, CPU)
    oof, everyone = trial.out_of_fold, set(trial.index.slides.tolist())
    assert set(oof.rows.ravel().tolist()) == set(range(len(FEATURES.table)))
    assert [set(oof.slide[oof.fold == fold].tolist()) for fold in range(folds)] == [set(fold) for fold in splits.folds]
    trained = [set(trial.index.slides[slides].tolist()) for slides in trial.train_slides]
    assert trained == [everyone - set(fold) for fold in splits.folds]
    table = FEATURES.table
    for name in ("slide", "patient", "subtype", "label"):
        assert (getattr(table, name)[oof.rows] == getattr(oof, name)[:, None]).all()


MIXED = {"augment.mixup": 1.0, "augment.masking": 0.2, "optim.batch_size": 8}


@KINDS
def test_images_of_held_out_patients_do_not_touch_the_networks_of_their_fold_even_through_mixup(values, dataset):
    splits = deal(dataset)

    def weights(dataset):
        trial = CrossValidation(tiny_config(values | MIXED), dataset, splits, CPU)
        next(trial)
        return weights_of(trial)

    plain, other = weights(dataset), weights(altered(dataset, np.isin(dataset.table.slide, splits.folds[0])))
    assert torch.equal(plain[0], other[0])
    assert not torch.equal(plain[1], other[1])


@KINDS
def test_each_image_teaches_the_networks_of_all_folds_but_that_of_its_patient(values, dataset):
    splits = deal(dataset, 4)

    def weights(dataset):
        trial = CrossValidation(tiny_config(values | STILL), dataset, splits, CPU)  # dropout may leave nothing of a view
        next(trial)
        return weights_of(trial)

    plain = weights(dataset)
    for row in range(0, len(dataset.table), 21):  # of four patients, one of each magnification
        same = [torch.equal(one, two) for one, two in zip(plain, weights(altered(dataset, [row])), strict=True)]
        assert same == [dataset.table.slide[row] in fold for fold in splits.folds]


def test_sealed_patients_in_the_data_set_are_an_error():
    splits = deal(FEATURES)
    sealed = splits.folds[0][0]
    splits = replace(splits, folds=(splits.folds[0][1:], splits.folds[1]), test=(sealed,))
    with pytest.raises(LeakageError, match=sealed):
        crossval.run(tiny_config(FROZEN), FEATURES, splits, device=CPU)
    crossval.run(tiny_config(FROZEN), FEATURES.select_slides(splits.development()), splits, device=CPU)


@KINDS
def test_a_selection_is_trained_as_its_copy(values, dataset):
    splits = deal(dataset)
    kept = replace(splits, folds=(splits.folds[0][1:], splits.folds[1]))
    selected = dataset.select_slides(kept.development())
    copied = replace(
        selected, **{name: np.array(found) for name in ("images", "features") if (found := getattr(selected, name)) is not None}
    )
    one, two = (list(CrossValidation(tiny_config(values), part, kept, CPU)) for part in (selected, copied))
    assert numbers(one) == numbers(two)


def test_a_fold_that_can_be_judged_on_one_class_only_is_an_error():
    label_of = FEATURES.table.of_slides("label")
    by_class = [tuple(slide for slide, label in label_of.items() if label == kind) for kind in (0, 1)]
    with pytest.raises(DataError, match="fold 1 does not have views of every class"):
        crossval.run(tiny_config(FROZEN), FEATURES, Splits(tuple(by_class), (), "patient", "here"), device=CPU)


# what a report says --------------------------------------------------------------------------------------------------


def test_a_report_is_the_metrics_of_its_own_predictions():
    trial, reports = train(tiny_config(FROZEN | {"metric": "auc"}), FEATURES)
    oof = trial.out_of_fold
    for number, report in enumerate(reports, start=1):
        assert report.epoch == number and report.fold_epochs == 2 * number
        assert report.metrics == evaluate(report.probability, oof.label, oof.patient)
        for fold, metrics in enumerate(report.fold_metrics):
            held = oof.fold == fold
            assert metrics == evaluate(report.probability[held], oof.label[held], oof.patient[held])
        scores = [earlier.metrics["auc"] for earlier in reports[:number]]
        assert report.score == max(scores) == scores[report.best_epoch - 1]
        np.testing.assert_allclose(report.importance.sum(1), 1, rtol=1e-5)
    assert [report.finished for report in reports] == [False, False, True]
    assert trial.finished and next(trial, None) is None


def test_cross_entropy_is_focal_loss_without_focus():
    focal = tiny_config(FROZEN | {"loss.gamma": 0.0, "loss.alpha": 0.5})
    cross_entropy = tiny_config(FROZEN | {"loss.name": "cross_entropy", "loss.alpha": 0.2})
    assert numbers(train(focal, FEATURES)[1]) == numbers(train(cross_entropy, FEATURES)[1])


def test_the_learning_rate_follows_the_schedule():
    _, reports = train(tiny_config(FROZEN | {"optim.schedule": "cosine", "optim.epochs": 2, "sampling.balance": "none"}), FEATURES)
    steps = [0.5 * (1 + math.cos(math.pi * progress)) for progress in (0.25, 0.75)]  # the second and last step of each epoch
    assert [report.lr for report in reports] == pytest.approx([1e-2 * factor for factor in steps])


def test_a_backbone_goes_by_its_share_of_the_learning_rate():
    """AdamW's first step moves each weight by the rate, whatever its gradient."""
    values = {"optim.backbone_lr": 0.25, "optim.weight_decay": 0.0, "optim.schedule": "constant", "optim.batch_size": 64}
    trial = CrossValidation(tiny_config(STILL | values), PIXELS, deal(PIXELS), CPU)
    network = trial.networks[0]
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    next(trial)
    moved = {name: (parameter.detach() - before[name]).abs().max().item() for name, parameter in network.named_parameters()}
    for part, rate in (("backbones.", 0.0025), ("head.", 0.01)):
        assert max(value for name, value in moved.items() if name.startswith(part)) == pytest.approx(rate, rel=1e-2)


def test_a_trial_ends_after_its_patience():
    _, reports = train(tiny_config(FROZEN | UNLEARNING | {"optim.patience": 2, "optim.epochs": 9}), FEATURES)
    assert [report.finished for report in reports] == [False, False, True]
    assert reports[-1].best_epoch == 1


def test_a_trial_without_patience_takes_all_its_epochs():
    assert len(train(tiny_config(FROZEN | UNLEARNING | {"optim.patience": None, "optim.epochs": 5}), FEATURES)[1]) == 5


# masked magnifications ------------------------------------------------------------------------------------------------


def rows_seen(masking):
    """(a trial after an epoch, rows (V, 4) that it trained on, rows that it judged)."""
    trial = CrossValidation(tiny_config(FROZEN | {"augment.masking": masking}), FEATURES, deal(FEATURES), CPU)
    trained, judged = watched(trial)
    next(trial)
    return trial, np.concatenate([rows for rows, _ in trained]), np.concatenate(judged)


def test_masking_hides_magnifications_in_training_and_never_in_judging():
    _, whole, judged = rows_seen(0.0)
    masked_trial, masked, judged_masked = rows_seen(0.5)
    assert (whole != MISSING).all() and 0.3 < (masked == MISSING).mean() < 0.6
    assert (masked != MISSING).any(1).all()
    np.testing.assert_array_equal(np.where(masked == MISSING, whole, masked), whole)  # the views are those of a run without masking
    np.testing.assert_array_equal(judged_masked, judged)
    assert (masked_trial.out_of_fold.rows != MISSING).all()
    assert (masked_trial.history[0].importance > 0).all()


@pytest.mark.parametrize(("values", "dataset"), [({}, PIXELS), (FROZEN, FEATURES)], ids=["fine-tuned", "frozen"])
def test_every_epoch_and_fold_hides_other_images(values, dataset):
    trial = CrossValidation(tiny_config(values | {"augment.masking": 0.5, "optim.batch_size": 64}), dataset, deal(dataset), CPU)
    trained, _ = watched(trial)
    for _ in trial:
        pass
    hidden = [(rows == MISSING).tolist() for rows, _ in trained]  # by place, whoever stands there
    assert len(hidden) >= 3 and all(one not in hidden[:number] for number, one in enumerate(hidden))


# what is shown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("balance", "malignant"), [("none", 2 / 3), ("class", 1 / 2)])
@pytest.mark.parametrize(("values", "dataset"), [({}, PIXELS), (FROZEN, FEATURES)], ids=["fine-tuned", "frozen"])
def test_a_trial_is_shown_as_much_of_each_class_as_its_balance_says(values, dataset, balance, malignant):
    label_of = dataset.table.of_slides("label")
    benign = [slide for slide, label in label_of.items() if label == 0]
    dataset = dataset.select_slides([slide for slide in label_of if slide not in benign[2:]])  # 2 benign, 4 malignant
    trial = CrossValidation(tiny_config(values | {"sampling.balance": balance}), dataset, deal(dataset), CPU)
    trained, judged = watched(trial)
    for _ in trial:
        pass
    assert np.concatenate([target[:, 1] for _, target in trained]).mean() == pytest.approx(malignant, abs=0.05)
    assert dataset.table.label[np.concatenate(judged)].mean() == pytest.approx(2 / 3)  # each image once, whatever the balance


def test_a_trial_is_shown_as_many_views_of_a_slide_as_asked():
    trial = CrossValidation(tiny_config({"sampling.views_per_slide": 5, "sampling.balance": "none"}), PIXELS, deal(PIXELS), CPU)
    trained, _ = watched(trial)
    next(trial)
    slides, counts = np.unique(PIXELS.table.slide[np.concatenate([rows[:, 0] for rows, _ in trained])], return_counts=True)
    assert (len(slides), set(counts.tolist())) == (8, {5})  # each by the one fold that trains on it


OF_ALL = {
    "sampling.views_per_slide": 1,
    "augment.mixup": 1.0,
    "augment.masking": 0.5,
    "dropout.classifier": 0.0,
    "dropout.fusion": 0.5,
    "dropout.attention": 0.5,
    "dropout.path": 0.5,
    "loss.alpha": 0.2,
    "loss.gamma": 0.0,
    "loss.label_smoothing": 0.3,
    "optim.lr": 1e-3,
    "optim.weight_decay": 1.0,
    "optim.schedule": "cosine",
    "optim.warmup": 0.9,
    "optim.clip": 1e-9,
    "optim.batch_size": 3,
    "optim.precision": "bfloat16",
    "seed": 1,
}
OF_PIXELS = {
    "augment.flip": False,
    "augment.turn": False,
    "augment.crop": 1.0,
    "augment.rotation": 45.0,
    "augment.color": 0.5,
    "augment.stain": 0.5,
    "augment.erase": 1.0,
    "optim.backbone_lr": 0.1,
    "model.shared": False,
}
TRAININGS = {"fine-tuned": ({}, PIXELS), "frozen": (FROZEN, FEATURES)}


@pytest.mark.parametrize("size", [1, 1000])
def test_any_batch_size_trains_every_fold(size):
    _, (report,) = train(tiny_config(FROZEN | {"optim.batch_size": size, "optim.epochs": 1}), FEATURES, folds=4)
    assert len(report.train_loss) == 4 and all(0 < loss < 1 for loss in report.train_loss)


@pytest.fixture(scope="module")
def defaults():
    """{kind of training: the numbers of one epoch by the defaults}."""
    return {kind: numbers(train(tiny_config(values | {"optim.epochs": 1}), dataset)[1]) for kind, (values, dataset) in TRAININGS.items()}


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        *(("fine-tuned", *option) for option in OF_PIXELS.items()),
        *(("frozen", *option) for option in (OF_ALL | {"augment.feature_noise": 0.5}).items()),
    ],
)
def test_every_option_of_training_changes_the_numbers(defaults, kind, option, value):
    values, dataset = TRAININGS[kind]
    (changed,) = numbers(train(tiny_config(values | {"optim.epochs": 1, option: value}), dataset)[1])
    assert changed[8] != defaults[kind][0][8]  # probabilities


# seeds and restarts --------------------------------------------------------------------------------------------------


@KINDS
def test_the_seed_decides_every_number(values, dataset):
    def reports(seed):
        torch.manual_seed(torch.seed())  # whatever the process drew before
        return numbers(train(tiny_config(values | RANDOM | {"seed": seed, "optim.epochs": 2}), dataset)[1])

    first, again, other = reports(0), reports(0), reports(1)
    assert first == again
    assert all(one[3] != two[3] and one[8] != two[8] for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("values", "dataset"),
    [
        ({"model.shared": False}, PIXELS),
        (FROZEN, FEATURES),
        (FROZEN | {"optim.schedule": "cosine", "optim.warmup": 0.5}, POOLED),
    ],
    ids=["backbones of their own", "frozen", "pooled, cosine"],
)
def test_a_restored_run_gives_the_numbers_of_one_never_stopped(tmp_path, values, dataset):
    config = tiny_config(values | RANDOM | {"optim.epochs": 4})
    straight, expected = train(config, dataset)
    stopped = CrossValidation(config, dataset, deal(dataset), CPU)
    TrialWriter(tmp_path, 0, {}, config).load(stopped)
    for _ in range(2):
        next(stopped)
    TrialWriter(tmp_path, 0, {}, config).save(stopped)
    torch.manual_seed(torch.seed())

    restored = CrossValidation(config, dataset, deal(dataset), CPU)
    TrialWriter(tmp_path, 0, {}, config).load(restored)
    assert numbers(restored.history) == numbers(expected[:2])
    assert numbers(restored) == numbers(expected[2:])
    for one, two in zip(straight.best_weights, restored.best_weights, strict=True):
        assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("values", "losses"),
    [({}, 1), ({"dropout.classifier": 0.5}, 6), ({"augment.crop": 0.5}, 6), ({"augment.mixup": 1.0, "optim.batch_size": 3}, 6)],
    ids=["nothing drawn", "dropout", "augmentation", "mixup"],
)
def test_every_epoch_and_fold_draws_its_own_augmentation_and_dropout(values, losses):
    """Of networks that are equal and learn nothing, on images that are equal: the losses of 3 epochs and 2 folds differ by nothing else."""
    same = replace(PIXELS, images=np.broadcast_to(PIXELS.images[:1], PIXELS.images.shape).copy())
    trial = CrossValidation(tiny_config(STILL | UNLEARNING | {"sampling.balance": "none"} | values), same, deal(same), CPU)
    trial.networks[1].load_state_dict(trial.networks[0].state_dict())
    assert len({round(loss, 6) for report in trial for loss in report.train_loss}) == losses


def test_a_run_is_given_its_state_directly():
    config = tiny_config(FROZEN)
    trial = CrossValidation(config, FEATURES, deal(FEATURES), CPU)
    next(trial)
    assert numbers(crossval.run(config, FEATURES, deal(FEATURES), device=CPU, state=trial.state_dict()).history) == numbers(trial.history)


def test_no_two_epochs_folds_or_networks_share_a_seed():
    of_networks = {derive_seed(seed, fold) for seed in range(3) for fold in range(5)}
    of_epochs = {derive_seed(seed, epoch, fold) for seed in range(3) for epoch in range(10) for fold in range(5)}
    assert (len(of_networks), len(of_epochs)) == (15, 150)
    assert of_networks.isdisjoint(of_epochs)


# a device that nobody waits for --------------------------------------------------------------------------------------


WITHOUT_VALUES = torch.device("meta")  # its tensors have shapes only: asking one for a value, or how many are True, is an error
DEVICE_WORK = pytest.mark.parametrize(
    ("values", "dataset"),
    [
        ({}, PIXELS),
        ({"augment.masking": 0.5, "augment.mixup": 0.4, "augment.rotation": 20.0, "augment.erase": 0.5, "dropout.path": 0.2}, PIXELS),
        ({"augment.masking": 0.5, "model.shared": False}, PIXELS),
        (FROZEN | {"augment.masking": 0.5, "augment.mixup": 0.4}, FEATURES),
        (FROZEN, POOLED),
    ],
    ids=["fine-tuned", "augmented", "backbones of their own", "frozen", "pooled"],
)


@DEVICE_WORK
def test_an_epoch_asks_nothing_of_the_device_before_all_of_its_batches_are_on_their_way(values, dataset):
    trial = CrossValidation(tiny_config(values), dataset, deal(dataset), WITHOUT_VALUES)
    trained, judged = watched(trial)
    with pytest.raises(RuntimeError, match="meta"):
        next(trial)
    assert sum(len(rows) for rows, _ in trained) >= 8 and judged == []  # a fold trains on 8 views, 4 at a step


@DEVICE_WORK
def test_predicting_asks_for_its_outputs_once_all_batches_are_on_their_way(values, dataset):
    trial = CrossValidation(tiny_config(values), dataset, deal(dataset), WITHOUT_VALUES)
    _, judged = watched(trial)
    trial.batches.judged_at_once = 3
    with pytest.raises(NotImplementedError, match="no data"):
        predict(trial.networks[0], trial.batches, trial.out_of_fold.rows)
    assert [len(rows) for rows in judged] == [3, 3, 3, 3, 3, 1]


# memory --------------------------------------------------------------------------------------------------------------


def short_of_memory(trial, limit, error=torch.OutOfMemoryError):
    """Make the trial's networks fail above `limit` views at once while they train -> the sizes that were tried."""
    tried = []

    def check(network, inputs):
        if network.training:
            tried.append(len(inputs[0]))
            if tried[-1] > limit:
                raise error("DefaultCPUAllocator: can't allocate memory")

    for network in trial.networks:
        network.register_forward_pre_hook(check)
    return tried


PIECES = pytest.mark.parametrize(
    ("values", "dataset"),
    [
        (STILL, PIXELS),
        (STILL | FROZEN, FEATURES),
        (STILL | FROZEN, POOLED),
        (STILL | {"augment.mixup": 0.4, "augment.masking": 0.3, "optim.clip": 0.05}, PIXELS),
    ],
    ids=["fine-tuned", "frozen", "pooled", "mixup, masking and clipping"],
)


@PIECES
def test_micro_batches_give_the_numbers_of_the_whole_batch(values, dataset):
    config = tiny_config(values | {"optim.batch_size": 5, "optim.epochs": 2, "optim.lr": 1e-3})
    whole, small = (CrossValidation(config, dataset, deal(dataset), CPU) for _ in range(2))
    tried = short_of_memory(small, 2)
    for expected, report in zip(whole, small, strict=True):  # 2 epochs
        np.testing.assert_allclose(report.train_loss, expected.train_loss, rtol=1e-4)
        np.testing.assert_allclose(report.probability, expected.probability, rtol=1e-3, atol=1e-4)
        assert expected.micro_batch is None and report.micro_batch <= 2
    for one, two in zip(weights_of(whole), weights_of(small), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=3e-4)
    assert sum(count > 2 for count in tried) <= 3  # once a halving, never again


def test_a_step_that_ran_out_of_memory_half_way_starts_from_clean_gradients():
    config = tiny_config(STILL | {"optim.epochs": 1, "optim.batch_size": 8})
    whole, small = (CrossValidation(config, PIXELS, deal(PIXELS), CPU) for _ in range(2))
    whole.micro_batch = small.micro_batch = 4
    passes = []

    def no_memory(gradient):
        raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory")

    def fail_in_the_second(network, inputs, output):
        passes.append(len(inputs[0]))
        if len(passes) == 2:
            output.logit.register_hook(no_memory)  # in the backward pass, when the gradients of the first are there

    small.networks[0].register_forward_hook(fail_in_the_second)
    expected, report = next(whole), next(small)
    assert passes[:6] == [4, 4, 2, 2, 2, 2]
    assert (expected.micro_batch, report.micro_batch) == (4, 2)
    for one, two in zip(weights_of(whole), weights_of(small), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_one_view_that_does_not_fit_and_any_other_error_end_the_trial():
    for limit, error, tries in ((0, torch.OutOfMemoryError, [4, 2, 1]), (0, TypeError, [4])):
        trial = CrossValidation(tiny_config(STILL), PIXELS, deal(PIXELS), CPU)
        tried = short_of_memory(trial, limit, error)
        with pytest.raises(error):
            next(trial)
        assert tried == tries


def test_a_restored_run_goes_on_with_the_micro_batches_it_had(tmp_path):
    config = tiny_config(STILL)
    stopped, restored = (CrossValidation(config, PIXELS, deal(PIXELS), CPU) for _ in range(2))
    short_of_memory(stopped, 2)
    next(stopped)
    TrialWriter(tmp_path, 0, {}, config).save(stopped)
    TrialWriter(tmp_path, 0, {}, config).load(restored)
    assert restored.micro_batch == 2
    assert numbers(restored) == numbers(stopped)


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, None, [7]), (7, 9, [7]), (8, 4, [4, 4]), (7, 3, [2, 2, 3]), (3, 1, [1, 1, 1])])
def test_micro_batches_are_even_and_cover_all_views(count, size, sizes):
    parts = micro_batches(count, size)
    assert [view for part in parts for view in range(part.start, part.stop)] == list(range(count))
    assert sorted(part.stop - part.start for part in parts) == sizes


# best weights --------------------------------------------------------------------------------------------------------


def test_the_weights_kept_are_those_of_the_best_epoch(tmp_path):
    dataset = feature_dataset(patients=12, signal=0.0, signature=3.0)  # nothing to learn but by heart: the best epoch is early
    trial, reports = train(tiny_config(FROZEN | STILL | {"optim.epochs": 12, "optim.patience": None}), dataset)
    best = reports[-1].best_epoch
    assert best < 12 and reports[-1].probability.tolist() != reports[best - 1].probability.tolist()
    write_weights(tmp_path, trial)
    networks = load_networks(tmp_path, trial.config, dataset, CPU)
    oof = trial.out_of_fold
    judged = [predict(network, trial.batches, oof.rows[oof.fold == fold]) for fold, network in enumerate(networks)]
    # not to the last bit: a matrix that lies in memory row by row, not column by column, is summed in another order
    np.testing.assert_allclose(np.concatenate([part[0] for part in judged]), reports[best - 1].probability, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([part[1] for part in judged]), reports[best - 1].importance, rtol=1e-5)


# numbers that are none -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_an_error_that_names_epoch_and_fold():
    trial = CrossValidation(tiny_config(FROZEN), FEATURES, deal(FEATURES), CPU)
    next(trial)
    with torch.no_grad():
        next(trial.networks[1].parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match="loss is nan in epoch 2, fold 2: lower optim.lr"):
        next(trial)


def test_weights_that_the_last_step_of_an_epoch_broke_are_an_error_too():
    trial = CrossValidation(tiny_config(FROZEN), FEATURES, deal(FEATURES), CPU)

    trained = []

    @torch.no_grad()
    def diverge():
        trained.append(1)
        if len(trained) == 2:  # all steps are taken, nothing is evaluated yet
            next(trial.networks[1].parameters()).fill_(torch.nan)

    trial.after_fold = diverge
    with pytest.raises(TrainingError, match="probabilities are nan in epoch 1, fold 2: lower optim.lr"):
        next(trial)


def test_a_backbone_that_takes_one_size_only_is_built_for_the_input_size():
    values = {"data.image_size": 64, "model.input_size": 32, "model.backbone": "timm:test_vit", "optim.epochs": 1}
    _, reports = train(tiny_config(values), pixel_dataset(size=64, patients=4))
    assert np.isfinite(reports[0].score)


# more than two classes ------------------------------------------------------------------------------------------------


def test_three_classes_are_learned_reported_and_restored():
    classes = np.arange(12) % 3
    table = replace(FEATURES_OF_12.table, classes=("a", "b", "c"))
    slide = np.unique(table.slide, return_inverse=True)[1]
    features = np.random.default_rng(0).normal(size=FEATURES_OF_12.features.shape).astype(np.float16)
    features[np.arange(len(slide)), classes[slide]] += 2
    dataset = replace(FEATURES_OF_12, table=replace(table, label=classes[slide]), features=features)
    config = tiny_config(FROZEN | STILL | {"optim.epochs": 12, "optim.patience": None, "augment.mixup": 0.2, "loss.gamma": 0.0})
    trial, reports = train(config, dataset)
    assert reports[-1].probability.shape == (len(trial.out_of_fold.label), 3)
    np.testing.assert_allclose(reports[-1].probability.sum(1), 1, rtol=1e-5)
    assert reports[-1].metrics["auc"] > 0.9 and reports[-1].metrics["log_loss"] < np.log(3)
    half = CrossValidation(config, dataset, deal(dataset), CPU)
    for _ in range(3):
        next(half)
    again = CrossValidation(config, dataset, deal(dataset), CPU)
    again.load_state_dict(half.state_dict())
    assert [report.metrics for report in again] == [report.metrics for report in reports[3:]]
