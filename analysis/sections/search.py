"""What was tried: the leaderboard, the history of the best score, and how trials learned up to their rungs."""

from typing import Any

import numpy as np

from analysis.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from analysis.fold_curves import STYLES, THIN, curves_of
from analysis.leaderboard import leaderboard_rows, rank
from analysis.material import Material, without_folders
from analysis.page import Column, Html, Section, drawn, figure, joined, number, paragraph, sortable
from analysis.plots import metric_label
from analysis.sections.answer import metric_name, shown_metrics
from analysis.sections.cost import rung_lines
from mmnet.metrics import METRICS
from study.records import TrialRecord

COLORS = {"done": BLUE, "stopped": GREY, "running": ORANGE, "failed": VERMILION}
STATUS_NAMES = {"stopped": "stopped early"}
REASON = "reason of failure"
DASHES = ("solid", "dash")  # as STYLES of the printed figure


def leaderboard(material: Material) -> Section:
    shown = [name for name in shown_metrics(material.metric)]
    names, rows = leaderboard_rows(material.records, material.metric)
    params = [name for name in dict.fromkeys(path for record in material.records for path in record.params) if name in names]
    failed = any(record.status == "failed" for record in material.records)
    numeric = {path for path in params if all(isinstance(row[path], (int, float)) or row[path] == "" for row in rows)}
    columns = [
        Column("rank", 0),
        Column("trial"),
        Column("status"),
        Column("tie set"),
        *(Column(metric_name(name), 3) for name in shown),
        *(Column(title, 0) for title in ("epochs", "best epoch", "fold-epochs", "seconds")),
        *([Column(REASON)] if failed else []),
        Column("MiB", 0, detail=True),
        *(Column(path, detail=True) for path in params),
    ]
    states = _states(material.trust)
    table = []
    for place, row in enumerate(rows, start=1):
        reason = [without_folders(row["reason"]) if row["status"] == "failed" else ""] if failed else []
        details = [_significant(row[path]) if path in numeric else str(row[path]) for path in params]
        numbers = [_number(row[key]) for key in ("epoch", "best_epoch", "fold_epochs", "seconds")]
        table.append(
            [
                place,
                row["trial"],
                row["status"],
                states.get(row["trial"], ""),
                *(_number(row[n]) for n in shown),
                *numbers,
                *reason,
                row["peak_mib"],
                *details,
            ]
        )
    caption = (
        f"All {len(rows)} trials, best {metric_name(material.metric)} first; scores are out of fold at the trial's best epoch and optimistic. A trial "
        "that was stopped early shows the score that it had. The same rows: results/leaderboard.csv."
    )
    return Section("leaderboard", "Leaderboard", sortable("trials", columns, table, caption, "status"))


def _states(trust: dict[str, Any]) -> dict[str, str]:
    if not trust["ready"]:
        return {}
    return {row["trial"]: ("recommended, " if row["recommended"] else "") + row["state"] for row in trust["tie_set"]["rows"]}


def _number(value: Any) -> float | None:
    return None if value in ("", None) else value


def _significant(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def history(material: Material) -> Section:
    scored = [record for record in material.records if record.ranked]
    if not scored:
        return Section("history", "Optimisation history", paragraph("No trial has a score yet."))
    lower = METRICS[material.metric] == "min"
    best = (np.minimum if lower else np.maximum).accumulate([record.score for record in scored])
    traces: list[dict[str, Any]] = []
    for status in ("stopped", "done", "running"):
        chosen = [record for record in scored if record.status == status]
        if chosen:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": STATUS_NAMES.get(status, status),
                    "x": [record.number for record in chosen],
                    "y": [record.score for record in chosen],
                    "text": [drawn(f"trial {record.name}, {len(record.epochs)} epochs") for record in chosen],
                    "marker": {"color": COLORS[status], "size": 6, "symbol": {"stopped": "circle-open"}.get(status, "circle")},
                }
            )
    line = {"color": GREEN, "width": 2, "shape": "hv"}
    traces.append(
        {"type": "scatter", "mode": "lines", "name": "best so far", "x": [r.number for r in scored], "y": best.tolist(), "line": line}
    )
    leader = rank(scored, material.metric)[0]
    failed = sum(record.status == "failed" for record in material.records)
    words = (
        f"The best {metric_name(material.metric)} is {number(leader.score)}, of trial {leader.name}; "
        f"{sum(record.number > leader.number for record in scored)} scored trials came after it without a better one. "
        f"After the first ten scored trials the best was {number(float(best[min(9, len(best) - 1)]))}. {failed} trials failed and have no point."
    )
    layout = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": metric_label(material.metric)}}}
    return Section("history", "Optimisation history", figure("Optimisation history", traces, layout, words))


def learning(material: Material) -> Section:
    """All trials up to their rungs, and the folds of the one that is judged."""
    records = [record for record in material.records if record.epochs]
    if not records:
        return Section("curves", "Learning curves", paragraph("No trial has finished an epoch yet."))
    parts = [_all_curves(material, records)]
    if material.judged is not None and material.judged.record.ranked:
        parts.append(_fold_curves(material, material.judged.record))
    return Section("curves", "Learning curves", joined(*parts))


def _all_curves(material: Material, records: list[TrialRecord]) -> Html:
    traces: list[dict[str, Any]] = []
    for status in ("stopped", "failed", "done", "running"):
        chosen = [record for record in records if record.status == status]
        if chosen:
            named = {"name": STATUS_NAMES.get(status, status), "legendgroup": status, "opacity": 0.6}
            traces.append(_curve(chosen, material.metric) | named | {"line": {"color": COLORS[status], "width": 0.8}})
            traces.append(_ends(chosen, material.metric) | named | {"showlegend": False, "marker": {"color": COLORS[status], "size": 4}})
    judged = material.judged
    if judged is not None and judged.record.epochs:
        name = "recommended" if material.searched and material.trust["ready"] else "shown below"
        traces.append(
            _curve([judged.record], material.metric) | {"name": f"{name}: trial {judged.record.name}", "line": {"color": GREEN, "width": 3}}
        )
    last = max(len(record.epochs) for record in records)
    rungs = [rung for rung in material.about.get("rungs", []) if rung <= last]
    stopped = {rung: sum(r.status == "stopped" and len(r.epochs) == rung for r in records) for rung in rungs}
    words = f"{len(records)} trials over at most {last} epochs; a point is where one ended. " + (
        "Dotted lines are the rungs, at which the weaker trials stop: "
        + ", ".join(f"{count} at epoch {rung}" for rung, count in stopped.items()) + "."
        if rungs
        else "No rung stopped one early."
    )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": metric_label(material.metric)}},
        "shapes": rung_lines(rungs, last),
    }
    return figure("Learning curves of all trials", traces, layout, words)


def _curve(records: list[TrialRecord], metric: str) -> dict[str, Any]:
    """Trials as one line, broken between them: a thousand lines of their own would be slow."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for record in records:
        x += [*(line["epoch"] for line in record.epochs), None]
        y += [*(line["metrics"][metric] for line in record.epochs), None]
        text += [f"trial {record.name}"] * len(record.epochs) + [""]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "text": text}


def _ends(records: list[TrialRecord], metric: str) -> dict[str, Any]:
    """A point where each trial ended: all there is to see of one that had a single epoch."""
    last = [record.epochs[-1] for record in records]
    text = [f"trial {record.name} {record.status}" for record in records]
    return {"type": "scatter", "mode": "markers", "x": [e["epoch"] for e in last], "y": [e["metrics"][metric] for e in last], "text": text}


def _fold_curves(material: Material, record: TrialRecord) -> Html:
    curves = curves_of(record, material.metric)
    epoch = curves.epoch.tolist()
    mode = "lines+markers" if len(epoch) == 1 else "lines"
    common: dict[str, Any] = {"type": "scatter", "mode": mode, "x": epoch}
    traces: list[dict[str, Any]] = []
    for fold in range(curves.folds.shape[1]):
        line = {"color": THIN[fold % len(THIN)], "width": 1.2, "dash": DASHES[fold // len(THIN) % len(STYLES)]}
        named = {"name": f"fold {fold + 1}", "legendgroup": f"fold {fold + 1}", "line": line}
        traces.append(common | named | {"y": curves.folds[:, fold].tolist()})
        traces.append(common | named | {"y": curves.train_loss[:, fold].tolist(), "yaxis": "y2", "showlegend": False})
    traces.append(common | {"name": "mean of folds", "y": curves.mean.tolist(), "line": {"color": PURPLE, "width": 2, "dash": "dot"}})
    traces.append(common | {"name": "pooled", "y": curves.pooled.tolist(), "line": {"color": BLUE, "width": 3}})
    place = curves.best_epoch - 1
    words = (
        f"Trial {record.name} was best at epoch {curves.best_epoch} of {epoch[-1]}, for all folds together: {metric_name(material.metric)} "
        f"{number(float(curves.pooled[place]))} pooled, {number(float(curves.mean[place]))} ± {number(float(curves.sd[place]))} over folds; training loss "
        f"{number(float(curves.mean_train_loss[place]))} there and {number(float(curves.mean_train_loss[-1]))} at the end (lower panel)."
    )
    best = {
        "type": "line",
        "x0": curves.best_epoch,
        "x1": curves.best_epoch,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "#000", "width": 1, "dash": "dot"},
    }
    layout = {
        "height": 460,
        "xaxis": {"title": {"text": "epoch"}, "anchor": "y2"},
        "yaxis": {"title": {"text": metric_name(material.metric)}, "domain": [0.42, 1]},
        "yaxis2": {"title": {"text": "training loss"}, "domain": [0, 0.34]},
        "shapes": [best],
    }
    return figure(f"Folds of trial {record.name}", traces, layout, words)
