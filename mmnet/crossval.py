"""One trial: k patient-wise folds of one configuration, trained in lockstep, one report an epoch.

Lockstep makes the score of epoch e a score of all folds at epoch e, so an early-stopping rung compares like with like
and the best epoch is common to all folds. Networks with a trained backbone are trained one after the other; without one,
all folds take each step together, on the same features, each fold passing over the views of its held-out patients (see
mmnet.stacked). Pooled features on a CPU leave nothing to share: there as many folds train at once as torch has threads, a thread
each (see mmnet.side_by_side). Every random number is derived from (seed, epoch, fold), so a run restored between epochs goes on
with the same numbers as one never stopped.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from data.augment import send
from data.dataset import Dataset
from data.errors import DataError, LeakageError, shortlist
from data.splits import Splits
from data.views import ViewIndex, hide, trains_on
from mmnet.backbones import Backbone
from mmnet.batches import Batches, default_batch_size
from mmnet.build import build_network
from mmnet.compiling import commonest_batch, compile_backbones, compiles, images_of
from mmnet.config import Config
from mmnet.device import autocast, best_device, free_unused, is_out_of_memory
from mmnet.dropout import drawing_from
from mmnet.losses import focal_loss
from mmnet.metrics import METRICS, evaluate
from mmnet.network import MMNet
from mmnet.predict import predict
from mmnet.schedule import best_epoch, lr_factor, out_of_patience
from mmnet.seeds import derive_seed
from mmnet.side_by_side import side_by_side
from mmnet.stacked import Alone, Together


class TrainingError(RuntimeError):
    """A configuration that cannot be trained to the end, such as a loss that is no number."""


@dataclass(frozen=True)
class EpochReport:
    """What one epoch of all k folds gave. V out-of-fold views, M magnifications."""

    epoch: int  # from 1
    metrics: dict[str, float]  # of all out-of-fold views together
    fold_metrics: list[dict[str, float]]  # of each fold's views
    train_loss: list[float]  # mean of each fold
    lr: float  # of the last step
    seconds: float
    score: float  # the configured metric at the best epoch so far
    best_epoch: int  # from 1
    finished: bool
    probability: np.ndarray  # (V,) float32, of malignant
    importance: np.ndarray  # (V, M) float32
    parameters: int | None = None  # that are trained, of one fold's network
    micro_batch: int | None = None  # views whose gradients were computed at once, where memory was too small for all of a step's
    compiled: str | None = None  # "yes", or why the backbone could not be compiled as asked; None: not asked, or given up for micro-batches

    @property
    def fold_epochs(self) -> int:
        """Cost so far, in epochs of one fold."""
        return self.epoch * len(self.fold_metrics)

    def line(self) -> dict[str, Any]:
        """All but the arrays: what is reported to a scheduler and stands in epochs.jsonl."""
        arrays = ("probability", "importance")
        return {key: value for key, value in vars(self).items() if key not in arrays} | {"fold_epochs": self.fold_epochs}


@dataclass(frozen=True)
class OutOfFold:
    """The fixed views that judge a trial."""

    rows: np.ndarray  # (V, M) rows of the table
    slide: np.ndarray  # (V,) str
    patient: np.ndarray  # (V,) str, the unit of every interval
    subtype: np.ndarray  # (V,) str
    label: np.ndarray  # (V,)
    fold: np.ndarray  # (V,)


Judged = tuple[np.ndarray, np.ndarray]  # of V views: (V,) probability, (V, M) importance


class StepBatch(NamedTuple):
    """The B views of one step of K networks."""

    inputs: Tensor  # (B, M, …)
    mask: Tensor  # (B, M), the host's
    target: Tensor  # (B,)
    trains: np.ndarray  # (K, B) bool: whether a network learns from a view
    weight: Tensor  # (K, B) of a view in a network's loss

    def part(self, views: slice) -> "StepBatch":
        return StepBatch(self.inputs[views], self.mask[views], self.target[views], self.trains[:, views], self.weight[:, views])


class CrossValidation(Iterator[EpochReport]):
    """Iterate to train: each step is one epoch of every fold. See `run`."""

    def __init__(self, config: Config, dataset: Dataset, splits: Splits, device: torch.device):
        self.config, self.device = config, device
        self.index = ViewIndex(dataset.table, config.data.magnifications)
        fold_of = splits.fold_of()
        names = self.index.slides.tolist()
        outside = [name for name in names if name not in fold_of]
        if outside:
            raise LeakageError(f"slides {shortlist(outside)} stand in no fold: training must be given development slides only")
        fold = np.array([fold_of[name] for name in names])
        self.train_slides = [np.flatnonzero(fold != f) for f in range(len(splits.folds))]
        views = [self.index.evaluation(np.flatnonzero(fold == f)) for f in range(len(splits.folds))]
        patient_of, subtype_of = dataset.table.of_slides("patient"), dataset.table.of_slides("subtype")
        for f, part in enumerate(views):
            classes = len(np.unique(self.index.label[part.slide]))
            alone = len(set(map(patient_of.get, splits.folds[f]))) == 1  # one patient is left out
            if classes < 2 - alone or len(np.unique(self.index.label[self.train_slides[f]])) < 2:
                raise DataError(
                    f"fold {f + 1} has views of one class only at magnifications {config.data.magnifications}; use other splits or magnifications"
                )
        member = np.concatenate([part.slide for part in views])
        slide = self.index.slides[member]
        self.out_of_fold = OutOfFold(
            np.concatenate([part.rows for part in views]),
            slide,
            np.array([patient_of[name] for name in slide.tolist()]),
            np.array([subtype_of[name] for name in slide.tolist()]),
            self.index.label[member],
            np.repeat(np.arange(len(views)), [len(part.slide) for part in views]),
        )
        self.batches = Batches(dataset, config, device)
        self.networks = [build_network(config, dataset, derive_seed(config.seed, f)).to(device) for f in range(len(splits.folds))]
        self.parameters = sum(parameter.numel() for parameter in self.networks[0].parameters() if parameter.requires_grad)
        # on a CPU pooled features leave nothing to share, and the weights of one network at a time stay nearer (bench/RESULTS.md)
        self.side_by_side = (
            config.model.frozen and device.type == "cpu" and dataset.features is not None and dataset.features.shape[2:] == (1, 1)
        )
        self.learners: Sequence[Alone | Together] = (
            [Together(self.networks, config.optim)]
            if config.model.frozen and not self.side_by_side
            else [Alone(network, config.optim) for network in self.networks]
        )
        shown = self.index.natural(config.sampling.views_per_slide)
        self.views = [int(shown[members].sum()) for members in self.train_slides]  # of each fold an epoch, but for balancing's rounding
        self.batch_size = config.optim.batch_size or default_batch_size(config.model, device, int(np.mean(self.views)))
        self.micro_batch: int | None = None  # as in the report of the last epoch
        self.compiled: str | None = None  # likewise
        self.history: list[EpochReport] = []
        self.best_weights: list[dict[str, Tensor]] | None = None
        self.after_fold: Callable[[], None] = lambda: None  # called when a fold has trained for one epoch, for progress bars

    @property
    def scores(self) -> list[float]:
        """The configured metric after each epoch."""
        return [report.metrics[self.config.metric] for report in self.history]

    @property
    def finished(self) -> bool:
        optim = self.config.optim
        return len(self.history) >= optim.epochs or out_of_patience(self.scores, self.config.metric, optim.patience)

    def __next__(self) -> EpochReport:
        """Train every fold for one epoch and judge it. Raises TrainingError when a loss is not finite."""
        if self.finished:
            raise StopIteration
        started = time.perf_counter()
        if self.compiled is None:
            self.compile_backbones()
        epoch, folds = len(self.history), range(len(self.networks))
        threads = torch.get_num_threads() if self.side_by_side else 1  # one would take turns, and its cache hold another fold at every step
        losses, judged = self._side_by_side(epoch) if threads > 1 else self._in_turn(epoch)
        broken = [str(fold + 1) for fold, loss in enumerate(losses) if not np.isfinite(loss)]
        if broken:
            raise TrainingError(
                f"loss is {losses[int(broken[0]) - 1]} in epoch {epoch + 1}, fold {', '.join(broken)}: lower optim.lr or optim.clip"
            )
        broken = [str(fold + 1) for fold, part in enumerate(judged) if not np.isfinite(part[0]).all()]
        if broken:
            raise TrainingError(
                f"probabilities are not finite after epoch {epoch + 1}, fold {', '.join(broken)}: lower optim.lr or optim.clip"
            )
        probability = np.concatenate([part[0] for part in judged])
        oof = self.out_of_fold

        def metrics(chosen: np.ndarray) -> dict[str, float]:
            return evaluate(probability[chosen], oof.label[chosen], oof.patient[chosen])

        blank = dict.fromkeys(METRICS, float("nan"))  # of a fold of one class, as where one patient is left out
        pooled = metrics(np.ones(len(probability), dtype=bool))
        scores = [*self.scores, pooled[self.config.metric]]
        best = best_epoch(scores, self.config.metric)
        if best == epoch:
            self.best_weights = [_copy_of(network) for network in self.networks]
        finished = epoch + 1 >= self.config.optim.epochs or out_of_patience(scores, self.config.metric, self.config.optim.patience)
        report = EpochReport(
            epoch + 1,
            pooled,
            [metrics(oof.fold == fold) if len(np.unique(oof.label[oof.fold == fold])) > 1 else blank for fold in folds],
            losses,
            self.learners[0].optimizer.groups[0]["lr"],
            time.perf_counter() - started,
            scores[best] if best is not None else float("nan"),
            (best or 0) + 1,
            finished,
            probability,
            np.concatenate([part[1] for part in judged]),
            self.parameters,
            self.micro_batch,
            self.compiled if self.micro_batch is None else None,
        )
        self.history.append(report)
        return report

    def compile_backbones(self) -> None:
        """Where that is asked for: batches of the commonest size run compiled, all others as before, and so does judging."""
        config = self.config
        if not compiles(config) or self.micro_batch is not None:
            return
        size, _ = commonest_batch(self.views, self.batch_size)
        backbones = cast("list[Backbone]", [backbone for network in self.networks for backbone in network.backbones])
        failure = compile_backbones(backbones, images_of(config, size), config.input_size, config.optim.precision, self.device)
        self.compiled = f"no: {failure}" if failure else "yes"

    def _in_turn(self, epoch: int) -> tuple[list[float], list[Judged]]:
        """An epoch of one learner after the other -> the mean loss of each fold, what its network says of its held-out views."""
        losses: list[float] = []
        for learner in self.learners:
            losses += self._train(learner, range(len(losses), len(losses) + len(learner.networks)), epoch)
        return losses, [self._judge(fold) for fold in range(len(self.networks))]

    def _side_by_side(self, epoch: int) -> tuple[list[float], list[Judged]]:
        """As `_in_turn`, as many folds at once as there are threads."""

        def fold(number: int) -> Generator[None, None, tuple[list[float], Judged]]:
            loss = yield from self._steps(self.learners[number], range(number, number + 1), epoch)
            return loss, self._judge(number)

        ended = side_by_side([fold(number) for number in range(len(self.networks))])
        return [loss for losses, _ in ended for loss in losses], [judged for _, judged in ended]

    def _judge(self, fold: int) -> Judged:
        return predict(self.networks[fold], self.batches, self.out_of_fold.rows[self.out_of_fold.fold == fold])

    def _train(self, learner: Alone | Together, folds: range, epoch: int) -> list[float]:
        """One epoch of some folds -> the mean loss of each."""
        steps = self._steps(learner, folds, epoch)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def _steps(self, learner: Alone | Together, folds: range, epoch: int) -> Generator[None, None, list[float]]:
        """`_train` that yields after each step. The only synchronisation with the device is at the end."""
        config, optim = self.config, self.config.optim
        seeds = [derive_seed(config.seed, epoch, folds[0], purpose) for purpose in range(4)]
        slides = [self.train_slides[fold] for fold in folds]
        views, trains = self.index.training_together(
            slides,
            balance=config.sampling.balance,
            per_slide=config.sampling.views_per_slide,
            rng=np.random.default_rng(seeds[0]),
        )
        rows = hide(views.rows, config.augment.masking, np.random.default_rng(seeds[3])) if config.augment.masking else views.rows
        label, alike = self.index.label[views.slide], trains_on(slides, len(self.index.slides))[views.slide]
        steps = math.ceil(trains.sum(1).mean() / self.batch_size)
        generator = torch.Generator().manual_seed(seeds[1])
        total = torch.zeros(len(folds), device=self.device)
        for network in learner.networks:
            network.train()
        with self._seeded(learner, seeds[2]):
            for step, part in enumerate(np.array_split(np.arange(len(rows)), steps)):
                part = part[alike[part].argsort(kind="stable")]
                shown = self._inputs(rows[part], label[part], alike[part], generator)
                factor = lr_factor(optim.schedule, (epoch + step / steps) / optim.epochs, optim.warmup, self.scores, config.metric)
                for group in learner.optimizer.groups:
                    group["lr"] = optim.lr * group["share"] * factor
                count = trains[:, part].sum(1)
                weight = send(torch.from_numpy((trains[:, part] / count.clip(1)[:, None]).astype(np.float32)), self.device)
                losses = self._accumulate(learner, StepBatch(*shown, trains[:, part], weight))
                total += losses * send(torch.from_numpy(count), self.device)
                learner.descend(count > 0)
                yield
        for _ in folds:
            self.after_fold()
        return (total.cpu().numpy() / trains.sum(1)).tolist()

    def _seeded(self, learner: Alone | Together, seed: int) -> AbstractContextManager[None]:
        """Meanwhile dropout and stochastic depth draw what the seed says, beside other folds from a generator of the learner's own."""
        if self.side_by_side:
            return drawing_from(learner.networks[0], torch.Generator().manual_seed(seed))
        return globally_seeded(seed, self.device)

    def _accumulate(self, learner: Alone | Together, batch: StepBatch) -> Tensor:
        """Leave the gradients of a step's views with the learner -> the loss (K,) of each of its networks.

        Where memory runs out, in as many micro-batches as it takes, in this step and all later ones. A loss is a sum over views
        with the step's weights, so the gradients of micro-batches add up to those of the whole; only dropout is drawn anew, and a
        backbone's batch normalisation sees micro-batches (and has seen, for its running means, the attempt that failed).
        """
        while True:
            try:
                losses = [self._losses(learner, batch.part(part)) for part in micro_batches(len(batch.target), self.micro_batch)]
                return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)
            except RuntimeError as error:
                size = min(self.micro_batch or len(batch.target), len(batch.target))
                if size == 1 or not is_out_of_memory(error):
                    raise
            # here, where the error no longer holds what did not fit
            learner.optimizer.zero_grad()
            free_unused(self.device)
            self.micro_batch = (size + 1) // 2

    def _losses(self, learner: Alone | Together, batch: StepBatch) -> Tensor:
        """Add the gradients of some views -> their part (K,) of each network's loss."""
        loss = self.config.loss
        alpha, gamma = (0.5, 0.0) if loss.name == "cross_entropy" else (loss.alpha, loss.gamma)
        with autocast(self.device, self.config.optim.precision):
            logit = learner.logits(batch.inputs, batch.mask, batch.trains)
        losses = focal_loss(
            logit.float(), batch.target, alpha=alpha, gamma=gamma, label_smoothing=loss.label_smoothing, weight=batch.weight
        )
        learner.accumulate(losses)
        return losses.detach()

    def _inputs(self, rows: np.ndarray, label: np.ndarray, alike: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented inputs, mask and target of a step; mixup blends a view only with those that the same folds train on."""
        if not self.config.augment.mixup:
            return self.batches.training(rows, label, generator)
        starts = np.flatnonzero(np.diff(alike)) + 1
        mixed = [self.batches.training(*piece, generator) for piece in zip(np.split(rows, starts), np.split(label, starts), strict=True)]
        inputs, mask, target = (torch.cat(pieces) if len(pieces) > 1 else pieces[0] for pieces in zip(*mixed, strict=True))
        return inputs, mask, target

    def state_dict(self) -> dict[str, Any]:
        """Everything that later epochs depend on, as tensors and plain values (loads with weights_only=True)."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [learner.optimizer.state_dict() for learner in self.learners],
            "best_weights": self.best_weights,
            "history": [
                vars(report) | {"probability": torch.from_numpy(report.probability), "importance": torch.from_numpy(report.importance)}
                for report in self.history
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on a run of the same configuration, data and splits."""
        for network, weights in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(weights)
        for learner, moments in zip(self.learners, state["optimizers"], strict=True):
            learner.optimizer.load_state_dict(moments)
        self.best_weights = state["best_weights"]
        self.history = [
            EpochReport(**report | {"probability": report["probability"].numpy(), "importance": report["importance"].numpy()})
            for report in state["history"]
        ]
        if self.history:
            self.micro_batch, compiled = self.history[-1].micro_batch, self.history[-1].compiled
            self.compiled = None if compiled == "yes" else compiled  # this process has to compile anew, but what failed is not tried again


def run(
    config: Config, dataset: Dataset, splits: Splits, *, device: torch.device | None = None, state: dict[str, Any] | None = None
) -> CrossValidation:
    """A trial as an iterator of epoch reports; `state` is what an earlier one's `state_dict` returned.

    `dataset` holds development patients only (LeakageError otherwise): pixels, or features where `model.frozen`.
    """
    trial = CrossValidation(config, dataset, splits, device or best_device())
    if state is not None:
        trial.load_state_dict(state)
    return trial


@contextmanager
def globally_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Meanwhile torch's global generators begin at `seed`; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def micro_batches(count: int, size: int | None) -> list[slice]:
    """`count` views in as few parts of at most `size` as there can be, as even as they can be; None: in one."""
    ends = np.linspace(0, count, -(-count // (size or count)) + 1).astype(int).tolist()
    return [slice(*pair) for pair in pairwise(ends)]


def _copy_of(network: MMNet) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
