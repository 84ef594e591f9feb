"""What the search cost, what early stopping saved, and what failed."""

import re
from collections import defaultdict
from typing import Any

from analysis.figure import BLUE
from analysis.material import Material, without_folders
from analysis.page import Html, Section, figure, heading, joined, paragraph, table

STATUSES = ("done", "stopped", "failed", "running")
REASONS = 20


def cost(material: Material) -> Section:
    parts = [paragraph(*cost_sentences(material))]
    if material.about.get("rungs"):
        columns, rows = rung_rows(material)
        parts.append(table(columns, rows, "Rungs: trials that reached the epoch, ended at it, and went on."))
    if any(record.epochs for record in material.records):
        parts.append(_survival(material))
    if failed := failure_rows(material):
        parts += [heading("Failed trials"), table(["trials", "reason", "which"], failed[:REASONS], texts=3)]
        if len(failed) > REASONS:
            parts.append(paragraph(f"{len(failed) - REASONS} more reasons stand in the leaderboard.", kind="note"))
    return Section("cost", "Cost and early stopping", joined(*parts))


def cost_sentences(material: Material) -> list[str]:
    """Trials by status, fold-epochs against those without early stopping, and time."""
    records, about = material.records, material.about
    count = {status: sum(record.status == status for record in records) for status in STATUSES}
    folds, epochs = about["config"]["data"]["folds"], about["config"]["optim"]["epochs"]
    spent, full = sum(record.fold_epochs for record in records), len(records) * folds * epochs
    seconds = sum(record.seconds for record in records)
    peak = max((record.peak_mib for record in records), default=0.0)
    return [
        f"{len(records)} trials: {count['done']} done, {count['stopped']} stopped early, {count['failed']} failed, {count['running']} running.",
        f"They took {spent} fold-epochs (one epoch of one fold) of the {full} that {folds} folds of {epochs} epochs would have taken"
        + (f": {1 - spent / full:.0%} less." if full else "."),
        f"Training took {duration(seconds)} in all, added over trials; the largest process held {peak:.0f} MiB.",
    ]


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rung_rows(material: Material) -> tuple[list[str], list[list[Any]]]:
    lengths = [(len(record.epochs), record.status) for record in material.records]
    rows = []
    for rung in material.about["rungs"]:
        reached = sum(length >= rung for length, _ in lengths)
        stopped = sum(length == rung and status == "stopped" for length, status in lengths)
        on = sum(length > rung for length, _ in lengths)
        rows.append([rung, reached, stopped, reached - stopped - on, on, f"{on / reached:.0%}" if reached else "–"])
    return ["epoch", "reached", "stopped here", "ended otherwise or running", "went on", "share"], rows


def failure_rows(material: Material) -> list[list[Any]]:
    """[trials, reason, their names], the most frequent first; reasons that differ in numbers only are one."""
    grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in material.records:
        if record.status == "failed":
            reason = without_folders(record.reason)
            grouped[re.sub(r"\d+(\.\d+)?", "#", reason)].append((record.name, reason))
    ordered = sorted(grouped.values(), key=len, reverse=True)
    return [[str(len(found)), found[0][1] or "no reason on record", _names([name for name, _ in found])] for found in ordered]


def _names(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _survival(material: Material) -> Html:
    """How many trials reached each epoch."""
    lengths = [len(record.epochs) for record in material.records]
    epochs = list(range(1, max(lengths) + 1))
    reached = [sum(length >= epoch for length in lengths) for epoch in epochs]
    traces = [{"type": "bar", "x": epochs, "y": reached, "marker": {"color": BLUE}}]
    rungs = material.about.get("rungs", [])
    words = f"{reached[0]} trials finished an epoch, {reached[-1]} reached epoch {epochs[-1]}. Dotted: the rungs at which the weak stop."
    layout = {
        "height": 240,
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": "trials that reached it"}, "rangemode": "tozero"},
        "shapes": rung_lines(rungs, epochs[-1]),
        "showlegend": False,
    }
    return figure("How far trials got", traces, layout, words)


def rung_lines(rungs: list[int], last: int) -> list[dict[str, Any]]:
    """Dotted vertical lines at the rungs that were reached."""
    line = {"color": "#666", "width": 1, "dash": "dot"}
    return [
        {"type": "line", "x0": rung, "x1": rung, "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "line": line}
        for rung in rungs
        if rung <= last
    ]
