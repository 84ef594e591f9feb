"""What a person sees while a study runs: counts, the best so far, time left. Plain lines where there is no terminal."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmnet.metrics import is_better
from study.records import TrialRecord

PARAMS_SHOWN = 12


class ProgressCallback(tune.Callback):
    """Follows the study from Ray's events; draws four times a second in a terminal, one line a trial elsewhere."""

    def __init__(
        self,
        console: Console,
        *,
        name: str,
        metric: str,
        trials: int,
        epochs: int,
        expected: float,
        records: list[TrialRecord],
        deadline: float | None,
        synthetic: bool,
        given_up: Callable[[int], bool] = lambda number: True,
    ):
        """`expected`: epochs that all trials together are likely to take. `given_up`: see `StudySearcher`."""
        self.console, self.metric, self.trials, self.epochs, self.expected = console, metric, trials, epochs, expected
        self.title = f"study {name}{' — SYNTHETIC DATA' if synthetic else ''}"
        self.deadline, self.started = deadline, time.monotonic()
        self.given_up = given_up
        self.running: dict[int, dict[str, Any]] = {}
        self.ended = {record.number: record.status for record in records if record.status != "running"}
        self.spent = self.before = sum(len(record.epochs) for record in records)
        self.best: tuple[float, int, dict[str, Any]] | None = None
        for record in records:
            if record.number in self.ended and record.ranked:
                self._offer(record.score, record.number, record.params)
        self.live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "ProgressCallback":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def on_trial_start(self, iteration: int, trials: list, trial, **info: Any) -> None:
        if not self.running and not self.best and not self.ended and not self.live:
            self.console.print(f"[{self._elapsed()}] first trial starts")
        self.ended.pop(trial.config["number"], None)  # it goes on
        self.running.setdefault(trial.config["number"], {"epoch": trial.config["since"], "score": None})

    def on_trial_result(self, iteration: int, trials: list, trial, result: dict, **info: Any) -> None:
        if "score" in result:
            number = trial.config["number"]
            self.spent += result["epoch"] > self.running[number]["epoch"]
            self.running[number] = {"epoch": result["epoch"], "score": result["score"]}
            self._offer(result["score"], number, trial.config["params"])

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        result = trial.last_result or {}
        status = "failed" if "failed" in result else "done" if result.get("finished") else "rests" if result.get("rests") else "stopped"
        self._ended(trial, status, result.get("failed", ""))

    def on_trial_error(self, iteration: int, trials: list, trial, **info: Any) -> None:
        if self.given_up(trial.config["number"]):
            self._ended(trial, "failed", "worker lost")
        elif not self.live:
            self.console.print(f"[{self._elapsed()}] trial {trial.config['number']} has lost its worker and goes on with another")

    def _offer(self, score: float, number: int, params: dict[str, Any]) -> None:
        if is_better(self.metric, score, self.best[0] if self.best else None):
            self.best = (score, number, params)

    def _ended(self, trial, status: str, reason: str) -> None:
        self.ended[trial.config["number"]] = status
        last = self.running.pop(trial.config["number"], {"epoch": 0, "score": None})
        if not self.live:
            score = f"{self.metric} {last['score']:.4f}" if last["score"] is not None else "no score"
            best = f"best {self.best[0]:.4f} (trial {self.best[1]})" if self.best else ""
            text = f"[{self._elapsed()}] trial {trial.config['number']} {status} at epoch {last['epoch']}: {score} {reason}; {best}"
            self.console.print(Text(text))

    def _elapsed(self) -> str:
        return _clock(time.monotonic() - self.started)

    def _remaining(self) -> str:
        left = [self.deadline - time.monotonic()] if self.deadline else []
        if self.spent > self.before:
            left.append((time.monotonic() - self.started) / (self.spent - self.before) * (self.expected - self.spent))
        return _clock(max(min(left), 0)) if left else "?"

    def _view(self) -> Group:
        counts = Counter(self.ended.values())
        head = Text.assemble(
            (self.title, "bold"),
            f"  {len(self.ended) + len(self.running)}/{self.trials} trials: {len(self.running)} running, "
            f"{counts['stopped'] + counts['rests']} stopped early, {counts['done']} done, {counts['failed']} failed   "
            f"{self._elapsed()} elapsed, {self._remaining()} left",
        )
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("trial", "epoch", self.metric):
            table.add_column(column, justify="right")
        for number, row in list(self.running.items()):
            table.add_row(str(number), f"{row['epoch']}/{self.epochs}", "" if row["score"] is None else f"{row['score']:.4f}")
        if self.best is None:
            return Group(head, table)
        score, best, params = self.best
        shown = ", ".join(
            f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}" for path, value in list(params.items())[:PARAMS_SHOWN]
        )
        more = f" and {len(params) - PARAMS_SHOWN} more" if len(params) > PARAMS_SHOWN else ""
        return Group(head, table, Text(f"best so far: {self.metric} {score:.4f}, trial {best}: {shown}{more}", "green"))


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
