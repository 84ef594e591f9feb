"""One trial: k patient-wise folds of one configuration, trained in lockstep, one report an epoch.

Lockstep makes the score of epoch e a score of all folds at epoch e, so an early-stopping rung compares like with like, and the best
epoch and the plateau of the learning rate are common to all folds. Within an epoch the folds are trained one after the other, each
with its own network and optimizer. Every random number is derived from (seed, epoch, fold), so a run restored between epochs goes on
with the same numbers as one never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.dataset import Dataset
from data.errors import DataError, LeakageError, shortlist
from data.splits import Splits
from data.views import ViewIndex, hide
from mmnet.batches import Batches
from mmnet.build import build_networks, outputs_of, parameter_groups
from mmnet.config import Config, ConfigError
from mmnet.device import autocast, best_device, free_unused, is_out_of_memory
from mmnet.device_kind import default_batch_size, precision_of
from mmnet.losses import focal_loss
from mmnet.metrics import METRICS, evaluate
from mmnet.predict import predict
from mmnet.schedule import best_epoch, lr_factor, out_of_patience
from mmnet.seeds import derive_seed


class TrainingError(RuntimeError):
    """A configuration that cannot be trained to the end, such as a loss that is no number."""


@dataclass(frozen=True)
class EpochReport:
    """What one epoch of all k folds gave. V out-of-fold views, M magnifications, K classes."""

    epoch: int  # from 1
    metrics: dict[str, float]  # of all out-of-fold views together
    fold_metrics: list[dict[str, float]]  # of each fold's views
    train_loss: list[float]  # mean of each fold
    lr: float  # of the last step
    seconds: float
    score: float  # the configured metric at the best epoch so far
    best_epoch: int  # from 1
    finished: bool
    probability: np.ndarray  # (V, K) float32
    importance: np.ndarray  # (V, M) float32
    parameters: int | None = None  # that are trained, of one fold's network
    micro_batch: int | None = None  # views whose gradients were computed at once, where memory was too small for all of a step's

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
    """The fixed views that evaluate a trial."""

    rows: np.ndarray  # (V, M) rows of the table
    slide: np.ndarray  # (V,) str
    patient: np.ndarray  # (V,) str, the unit of every interval
    subtype: np.ndarray  # (V,) str
    label: np.ndarray  # (V,)
    fold: np.ndarray  # (V,)


class CrossValidation(Iterator[EpochReport]):
    """Iterate to train: each step is one epoch of every fold. See `run`."""

    def __init__(self, config: Config, dataset: Dataset, splits: Splits, device: torch.device):
        self.config, self.device, self.classes = config, device, len(dataset.table.classes)
        self.index = ViewIndex(dataset.table, config.data.magnifications)
        self.out_of_fold, self.train_slides = self._dealt(dataset, splits)
        self.batches = Batches(dataset, config, device)
        folds = len(splits.folds)
        self.networks = [network.to(device) for network in build_networks(config, dataset, folds)]
        self.parameters = sum(parameter.numel() for parameter in self.networks[0].parameters() if parameter.requires_grad)
        fused = device.type in ("cpu", "cuda", "mps")  # one kernel for all parameters, where there is one
        self.optimizers = [torch.optim.AdamW(parameter_groups(network, config.optim), fused=fused) for network in self.networks]
        self.precision = precision_of(config.optim.precision, device.type)
        self.scalers = [torch.amp.GradScaler(device.type, enabled=self.precision == "float16") for _ in self.networks]
        views = self.index.natural(config.sampling.views_per_slide).sum() * (folds - 1) // folds
        self.batch_size = config.optim.batch_size or default_batch_size(config.model, device.type, int(views))
        self.micro_batch: int | None = None  # as in the report of the last epoch
        self.history: list[EpochReport] = []
        self.best_weights: list[dict[str, Tensor]] | None = None
        self.after_fold: Callable[[], None] = lambda: None  # called when a fold has trained for one epoch, for progress bars

    def _dealt(self, dataset: Dataset, splits: Splits) -> tuple[OutOfFold, list[np.ndarray]]:
        """(the views of all folds, the slides that each fold's network is trained on). Raises LeakageError or DataError."""
        fold_of, names = splits.fold_of(), self.index.slides.tolist()
        outside = [name for name in names if name not in fold_of]
        if outside:
            raise LeakageError(f"slides {shortlist(outside)} stand in no fold: training must be given development slides only")
        fold = np.array([fold_of[name] for name in names])
        trained = [np.flatnonzero(fold != f) for f in range(len(splits.folds))]
        views = [self.index.evaluation(np.flatnonzero(fold == f)) for f in range(len(splits.folds))]
        patient_of, subtype_of = dataset.table.of_slides("patient"), dataset.table.of_slides("subtype")
        for f, part in enumerate(views):
            classes = len(np.unique(self.index.label[part.slide]))
            alone = len(set(map(patient_of.get, splits.folds[f]))) == 1  # one patient is left out
            if (classes < self.classes and not alone) or not classes or len(np.unique(self.index.label[trained[f]])) < self.classes:
                raise DataError(
                    f"fold {f + 1} does not have views of every class at magnifications {self.config.data.magnifications}; use other splits or "
                    "magnifications"
                )
        member = np.concatenate([part.slide for part in views])
        slide = self.index.slides[member]
        return OutOfFold(
            np.concatenate([part.rows for part in views]),
            slide,
            np.array([patient_of[name] for name in slide.tolist()]),
            np.array([subtype_of[name] for name in slide.tolist()]),
            self.index.label[member],
            np.repeat(np.arange(len(views)), [len(part.slide) for part in views]),
        ), trained

    @property
    def scores(self) -> list[float]:
        """The configured metric after each epoch."""
        return [report.metrics[self.config.metric] for report in self.history]

    @property
    def finished(self) -> bool:
        optim = self.config.optim
        return len(self.history) >= optim.epochs or out_of_patience(self.scores, self.config.metric, optim.patience)

    def __next__(self) -> EpochReport:
        """Train every fold for one epoch and evaluate it. Raises TrainingError when a loss is not finite."""
        if self.finished:
            raise StopIteration
        started = time.perf_counter()
        epoch, folds = len(self.history), range(len(self.networks))
        losses = [self._train(fold, epoch) for fold in folds]
        self._require_finite("loss is", losses, epoch)
        oof = self.out_of_fold
        evaluated = [predict(self.networks[fold], self.batches, oof.rows[oof.fold == fold]) for fold in folds]
        self._require_finite("probabilities are", [float(part[0].sum()) for part in evaluated], epoch)
        probability = np.concatenate([part[0] for part in evaluated])

        def metrics(chosen: np.ndarray) -> dict[str, float]:
            if len(np.unique(oof.label[chosen])) < self.classes:  # of a fold of one class, as where one patient is left out
                return dict.fromkeys(METRICS, float("nan"))
            return evaluate(probability[chosen], oof.label[chosen], oof.patient[chosen])

        pooled = metrics(np.ones(len(probability), dtype=bool))
        scores = [*self.scores, pooled[self.config.metric]]
        best = best_epoch(scores, self.config.metric)
        if best == epoch:
            self.best_weights = [_copy_of(network) for network in self.networks]
        report = EpochReport(
            epoch + 1,
            pooled,
            [metrics(oof.fold == fold) for fold in folds],
            losses,
            self.optimizers[0].param_groups[0]["lr"],
            time.perf_counter() - started,
            scores[best] if best is not None else float("nan"),
            (best or 0) + 1,
            epoch + 1 >= self.config.optim.epochs or out_of_patience(scores, self.config.metric, self.config.optim.patience),
            probability,
            np.concatenate([part[1] for part in evaluated]),
            self.parameters,
            self.micro_batch,
        )
        self.history.append(report)
        return report

    @staticmethod
    def _require_finite(what: str, values: list[float], epoch: int) -> None:
        broken = [fold for fold, value in enumerate(values) if not np.isfinite(value)]
        if broken:
            folds = ", ".join(str(fold + 1) for fold in broken)
            raise TrainingError(f"{what} {values[broken[0]]} in epoch {epoch + 1}, fold {folds}: lower optim.lr or optim.clip")

    def _train(self, fold: int, epoch: int) -> float:
        """One epoch of a fold -> its mean loss. The only synchronisation with the device is at the end."""
        config, optim, network, optimizer = self.config, self.config.optim, self.networks[fold], self.optimizers[fold]
        seeds = [derive_seed(config.seed, epoch, fold, purpose) for purpose in range(4)]
        views = self.index.training(
            self.train_slides[fold],
            balance=config.sampling.balance,
            per_slide=config.sampling.views_per_slide,
            rng=np.random.default_rng(seeds[0]),
        )
        rows = hide(views.rows, config.augment.masking, np.random.default_rng(seeds[3])) if config.augment.masking else views.rows
        target = np.eye(self.classes, dtype=np.float32)[self.index.label[views.slide]]  # (V, K)
        steps = math.ceil(len(rows) / self.batch_size)
        generator = torch.Generator().manual_seed(seeds[1])
        total = torch.zeros((), device=self.device)
        network.train()
        with globally_seeded(seeds[2], self.device):
            for step, part in enumerate(np.array_split(np.arange(len(rows)), steps)):
                factor = lr_factor(optim.schedule, epoch + step / steps, optim.epochs, optim.warmup, self.scores, config.metric)
                for group in optimizer.param_groups:
                    group["lr"] = optim.lr * group["share"] * factor
                inputs = self.batches.training(rows[part], target[part], generator)
                total += self._accumulate(fold, *inputs) * len(part)
                self.scalers[fold].unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(network.parameters(), optim.clip)
                self.scalers[fold].step(optimizer)
                self.scalers[fold].update()
                optimizer.zero_grad()
        self.after_fold()
        return float(total) / len(rows)

    def _accumulate(self, fold: int, inputs: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """Leave the gradients of a step's mean loss with the network -> that loss.

        Where memory runs out, in as many micro-batches as it takes, in this step and all later ones. Each adds its share of the mean,
        so gradients add up to those of the whole; only dropout is drawn anew, and a backbone's batch normalisation sees micro-batches
        (and has seen, for its running means, the attempt that failed).
        """
        while True:
            try:
                losses = []
                for part in micro_batches(len(target), self.micro_batch):
                    loss = self._loss(fold, inputs[part], mask[part], target[part]) * (len(target[part]) / len(target))
                    self.scalers[fold].scale(loss).backward()
                    losses.append(loss.detach())
                return torch.stack(losses).sum()
            except RuntimeError as error:
                size = min(self.micro_batch or len(target), len(target))
                if size == 1 or not is_out_of_memory(error):
                    raise
            # here, where the error no longer holds what did not fit
            self.optimizers[fold].zero_grad()
            free_unused(self.device)
            self.micro_batch = (size + 1) // 2

    def _loss(self, fold: int, inputs: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        loss = self.config.loss
        alpha, gamma = (0.5, 0.0) if loss.name == "cross_entropy" else (loss.alpha, loss.gamma)
        with autocast(self.device, self.precision):
            logit = outputs_of(self.networks[fold], inputs, mask).logit
        if logit.shape[1] != self.classes and (logit.shape[1], self.classes) != (1, 2):
            expected = "1 or 2" if self.classes == 2 else str(self.classes)
            raise ConfigError(f"model.name: its network gave {logit.shape[1]} logits of {self.classes} classes; expected {expected}")
        return focal_loss(logit.float(), target, alpha=alpha, gamma=gamma, label_smoothing=loss.label_smoothing)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later epochs depend on, as tensors and plain values (loads with weights_only=True)."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scalers": [scaler.state_dict() for scaler in self.scalers],
            "best_weights": self.best_weights,
            "history": [
                vars(report) | {"probability": torch.from_numpy(report.probability), "importance": torch.from_numpy(report.importance)}
                for report in self.history
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on a run of the same configuration, data and splits. `state`: loaded to the host."""
        for own, name in ((self.networks, "networks"), (self.optimizers, "optimizers"), (self.scalers, "scalers")):
            for part, saved in zip(own, state[name], strict=True):
                part.load_state_dict(saved)  # type: ignore[attr-defined]
        self.best_weights = state["best_weights"]
        self.history = [
            EpochReport(**report | {"probability": report["probability"].numpy(), "importance": report["importance"].numpy()})
            for report in state["history"]
        ]
        if self.history:
            self.micro_batch = self.history[-1].micro_batch


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


def _copy_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """On the device, so that nothing waits; they come to the host when they are saved."""
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
