"""A running study seen from its records alone: in another terminal, on another machine that shares the folder."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from analysis.leaderboard import best_trial
from analysis.tables import narrow_table
from data.errors import InputError
from mmnet.config import text_of
from study.folder import read_study
from study.members import member_names
from study.records import TrialRecord, read_trial

SECONDS = 2.0  # between two looks
SILENT = 300.0  # seconds without a record, after which a process may be gone
LATEST, RUNNING_SHOWN = 5, 20


class Records:
    """The trials of a study, each read again only when its files changed."""

    def __init__(self, study: Path):
        self._study = study
        self._known: dict[Path, tuple[tuple[int, ...], TrialRecord]] = {}
        self.changed = 0.0  # when the newest record was written, seconds since 1970

    def read(self) -> list[TrialRecord]:
        """By number. A trial that is being written just now is taken as it was."""
        for folder in sorted((self._study / "trials").glob("*")):
            files = [file for name in ("status.json", "epochs.jsonl") if (file := folder / name).exists()]
            if not files or files[0].name != "status.json":
                continue
            stamp = tuple(file.stat().st_mtime_ns for file in files)
            if folder not in self._known or self._known[folder][0] != stamp:
                try:
                    self._known[folder] = stamp, read_trial(folder)
                except InputError:
                    continue
                self.changed = max(self.changed, *(nanoseconds / 1e9 for nanoseconds in stamp))
        return [record for _, record in self._known.values()]


def planned(about: dict[str, Any]) -> int:
    """How many trials a study is to have."""
    settings = about.get("settings", {})
    if about["verb"] == "tune":
        return settings["trials"]
    return (
        settings.get("repeats") or settings.get("nested") or len(member_names(about)) or 1 + len(settings.get("single_magnifications", []))
    )


def ended(about: dict[str, Any], records: list[TrialRecord]) -> str:
    """Why nothing more will come, "" while something may: the run said so, every planned trial ended, or it is of an earlier version."""
    done = sum(record.status != "running" for record in records)
    if done >= planned(about):
        return "every trial ended"
    if "ended" not in about:
        return f"{done} of {planned(about)} trials ended; an earlier version of this software does not say whether it still runs"
    return (about["ended"] or {}).get("reason", "")


def watch(study: Path, console: Console, wait: Callable[[float], object] = time.sleep) -> None:
    """Show a study until it has ended, or Ctrl-C. `wait` takes the seconds until the next look."""
    records = Records(study)
    read_study(study)  # a wrong folder is an error at once
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while True:
                about, found = read_study(study), records.read()
                live.update(view(study.name, about, found, time.time() - records.changed))
                if ended(about, found):
                    break
                wait(SECONDS)
    else:
        told: set[str] = set()
        while True:
            about, found = read_study(study), records.read()
            for record in found:
                if record.status != "running" and record.name not in told:
                    told.add(record.name)
                    console.print(line(record, about["config"]["metric"]), highlight=False, soft_wrap=True, markup=False)
            if ended(about, found):
                break
            wait(SECONDS)
    console.print(Text(headline(study.name, about, found)))
    console.print(Text(f"ended: {ended(about, found)}{best_line(found, about['config']['metric'])}"), soft_wrap=True)


def headline(name: str, about: dict[str, Any], records: list[TrialRecord]) -> str:
    counts = {status: sum(record.status == status for record in records) for status in ("running", "stopped", "done", "failed")}
    synthetic = " — SYNTHETIC DATA" if about["data"]["synthetic"] else ""
    return (
        f"study {name}{synthetic}  {len(records) - counts['running']}/{planned(about)} trials: {counts['running']} running, "
        f"{counts['stopped']} stopped early, {counts['done']} done, {counts['failed']} failed"
    )


def line(record: TrialRecord, metric: str) -> str:
    """A trial in one line."""
    score = f"{metric} {record.score:.4f} (epoch {record.best['epoch']})" if record.ranked else "no score"
    return f"trial {record.name} {record.status} after epoch {len(record.epochs)}: {score}{f'; {record.reason}' if record.reason else ''}"


def best_line(records: list[TrialRecord], metric: str) -> str:
    best = best_trial(records, metric)
    if best is None:
        return ""
    params = ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={text_of(value)}" for path, value in best.params.items()
    )
    return f"; best: {metric} {best.score:.4f}, trial {best.name}{f': {params}' if params else ''}"


def view(name: str, about: dict[str, Any], records: list[TrialRecord], silent: float) -> RenderableType:
    """What a terminal shows: counts, the running trials, those that ended last, the best. `silent`: seconds since the newest record."""
    metric, epochs = about["config"]["metric"], about["config"]["optim"]["epochs"]
    table = narrow_table("", ("trial", "epoch", metric, "best"))
    running = [record for record in records if record.status == "running"]
    for record in running[:RUNNING_SHOWN]:
        last = record.epochs[-1] if record.epochs else None
        now = last["metrics"][metric] if last else None
        table.add_row(
            record.name,
            f"{len(record.epochs)}/{epochs}",
            "" if now is None else f"{now:.4f}",
            f"{record.score:.4f}" if record.ranked else "",
        )
    parts: list[RenderableType] = [Text(headline(name, about, records), "bold"), table]
    if len(running) > RUNNING_SHOWN:
        parts.append(Text(f"and {len(running) - RUNNING_SHOWN} more"))
    latest = deque((record for record in records if record.status != "running"), LATEST)
    parts += [Text(line(record, metric), "dim", no_wrap=True, overflow="ellipsis") for record in latest]
    parts.append(Text(best_line(records, metric).removeprefix("; "), "green"))
    if records and silent > SILENT:
        parts.append(Text(f"no record for {silent / 60:.0f} minutes: its process may be gone; Ctrl-C leaves", "yellow"))
    return Group(*parts)
