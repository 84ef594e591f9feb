"""Which parameters mattered, and where in their ranges the good trials stand."""

from typing import Any

import numpy as np

from analysis.figure import BLUE, ORANGE, VERMILION
from analysis.leaderboard import rank
from analysis.material import Material
from analysis.page import Html, Section, drawn, error_bars, figure, heading, joined, number, paragraph, sentence
from analysis.plots import AXES_SHOWN, value_scale
from analysis.sections.answer import metric_name
from mmnet.config import text_of
from study.records import TrialRecord

GROUPS = 10  # of trials by rank, one colour each
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
CROWD = 100  # trials, from which on lines are fainter
BARS = 15
MARGINALS = 6


def parallel(material: Material) -> Section:
    ranked = [record for record in rank(material.records, material.metric) if record.ranked and record.params]
    title = "Parallel coordinates"
    if len(ranked) < 2:
        return Section("parallel", title, paragraph("Fewer than two trials with searched parameters have a score."))
    share = material.trust["importance"]["ped_anova"] if material.trust["ready"] else {}
    paths = [path for path in share if any(path in record.params for record in ranked)]
    paths += [path for path in dict.fromkeys(p for record in ranked for p in record.params) if path not in paths]
    paths = paths[:AXES_SHOWN]
    scales = {path: value_scale([record.params[path] for record in ranked if path in record.params]) for path in paths}
    scored = value_scale([record.score for record in ranked])
    groups = np.array_split(np.arange(len(ranked)), min(GROUPS, len(ranked)))
    traces = []
    faint = 0.55 if len(ranked) <= CROWD else 0.25
    for place in range(len(groups) - 1, -1, -1):  # the better on top
        color = VIRIDIS[round(place * (GROUPS - 1) / max(len(groups) - 1, 1))]
        lines = _lines([ranked[index] for index in groups[place].tolist()], paths, scales, scored, material.metric)
        traces.append(lines | {"line": {"color": color, "width": 0.9}, "opacity": faint})
    traces.append(_lines(ranked[:1], paths, scales, scored, material.metric) | {"line": {"color": VERMILION, "width": 2.5}})
    ends = [_end(path, ranked, level) for path in paths for level in (0, 1)]
    shown = len(dict.fromkeys(p for record in ranked for p in record.params))
    best = ", ".join(f"{path}={_short(ranked[0].params[path])}" for path in paths if path in ranked[0].params)
    words = (
        f"One line a trial through {len(paths)} of {shown} searched parameters{', the most important first' if share else ''}, to its score on the right; dark lines are the better trials, the thick one the best, and "
        f" a line stops where a trial does not have the parameter. Each axis runs from the lowest value tried to the highest. The best trial, {ranked[0].name}: {best}."
    )
    names = [*paths, metric_name(material.metric)]
    layout = {
        "height": 470,
        "xaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [drawn(name) for name in names],
            "range": [-0.35, len(names) - 0.65],
            "tickangle": 35,
            "ticklabeloverflow": "allow",
            "tickfont": {"size": 10},
        },
        "yaxis": {"range": [-0.09, 1.09], "showticklabels": False, "ticks": "", "showgrid": False},
        "annotations": [
            {"x": index // 2, "y": -0.05 if index % 2 == 0 else 1.05, "text": text, "showarrow": False, "font": {"size": 9}}
            for index, text in enumerate(ends)
        ]
        + [{"x": len(paths), "y": y, "text": text, "showarrow": False, "font": {"size": 9}} for y, text in _score_ends(ranked)],
        "showlegend": False,
    }
    return Section("parallel", title, figure(title, traces, layout, words))


def _lines(members: list[TrialRecord], paths: list[str], scales: dict, scored: Any, metric: str) -> dict[str, Any]:
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for record in members:
        for place, path in enumerate(paths):
            x.append(place)
            y.append(scales[path](record.params[path]) if path in record.params else None)
            text.append(drawn(f"trial {record.name}: {path}={_short(record.params.get(path, ''))}"))
        x += [len(paths), None]
        y += [scored(record.score), None]
        text += [f"trial {record.name}: {metric_name(metric)} {number(record.score)}", ""]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "text": text, "hoverinfo": "text"}


def _end(path: str, ranked: list[TrialRecord], level: int) -> str:
    """The value at the lower (0) or the upper (1) end of an axis."""
    values = [record.params[path] for record in ranked if path in record.params]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    ordered = sorted(values) if numeric else sorted(values, key=str)
    return drawn(_short(ordered[-level]))


def _score_ends(ranked: list[TrialRecord]) -> list[tuple[float, str]]:
    scores = [record.score for record in ranked]
    return [(-0.05, number(min(scores))), (1.05, number(max(scores)))]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(text_of(value))


def importance(material: Material) -> Section:
    title = "Parameter importance"
    if not material.trust["ready"]:
        return Section("importance", title, paragraph("There are no judged trials yet."))
    found = material.trust["importance"]
    parts = [paragraph(sentence(found["words"]))]
    if found["enough"]:
        parts.append(_bars(found))
        if found["marginals"]:
            parts += [heading("Marginal effects"), _marginals(found, material.metric)]
        if found["interaction"]:
            parts += [heading("Interaction of the strongest pair"), _interaction(found["interaction"], material.metric)]
    return Section("importance", title, joined(*parts))


def _bars(found: dict[str, Any]) -> Html:
    names = list(found["ped_anova"] or found["fanova"])[:BARS]
    traces = []
    for key, label, color in (("fanova", "fANOVA", ORANGE), ("ped_anova", "PED-ANOVA", BLUE)):
        rows = [found[key][name] for name in names if name in found[key]]
        if not rows:
            continue
        at = [drawn(name) for name in names if name in found[key]]
        value, low, high = ([row[key] for row in rows] for key in ("value", "low", "high"))
        bars = error_bars(value, low, high)
        traces.append({"type": "bar", "orientation": "h", "name": label, "x": value, "y": at, "error_x": bars, "marker": {"color": color}})
    first = found["ped_anova"] or found["fanova"]
    leading = ", ".join(f"{name} {_interval(row)}" for name, row in list(first.items())[:3])
    words = f"Shares of the differences in score, {found['trials']} trials compared at epoch {found['epoch']}; bars are 95 % bootstrap intervals. The first three by {'PED-ANOVA' if found['ped_anova'] else 'fANOVA'}: {leading}."
    layout = {
        "height": 120 + 34 * len(names),
        "xaxis": {"title": {"text": "importance (share)"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "categoryorder": "array", "categoryarray": [drawn(name) for name in names], "showgrid": False},
        "barmode": "group",
    }
    return figure("Parameter importance", traces, layout, words)


def _interval(row: dict[str, float | None]) -> str:
    return f"{number(row['value'], 2)} ({number(row['low'], 2)} to {number(row['high'], 2)})"


def _marginals(found: dict[str, Any], metric: str) -> Html:
    """A small panel a parameter, its mean effect with a 95 % band."""
    order = [name for name in found["ped_anova"] if name in found["marginals"]] or list(found["marginals"])
    names = order[:MARGINALS]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"showlegend": False, "annotations": []}
    rows = -(-len(names) // 2)
    said = []
    for place, name in enumerate(names):
        effect, suffix = found["marginals"][name], "" if place == 0 else str(place + 1)
        row, column = divmod(place, 2)
        left, top = 0.55 * column, 1 - row / rows
        layout[f"xaxis{suffix}"] = {
            "domain": [left, left + 0.45],
            "anchor": f"y{suffix}",
            "type": {"log": "log", "number": "linear"}.get(effect["kind"], "category"),
        }
        layout[f"yaxis{suffix}"] = {
            "domain": [top - 0.66 / rows, top - 0.1 / rows],
            "anchor": f"x{suffix}",
            "matches": "y" if place else None,
        }
        layout["annotations"].append(
            {
                "x": left,
                "y": top - 0.07 / rows,
                "xref": "paper",
                "yref": "paper",
                "text": drawn(name),
                "showarrow": False,
                "xanchor": "left",
                "yanchor": "bottom",
            }
        )
        traces += _effect(effect, f"x{suffix}", f"y{suffix}")
        means = [(value, x) for x, value in zip(effect["x"], effect["mean"], strict=True) if value is not None]
        if means:
            said.append(
                f"{name}: {number(min(means)[0])} at {_short(min(means, key=lambda m: m[0])[1])}, {number(max(means, key=lambda m: m[0])[0])} at {_short(max(means, key=lambda m: m[0])[1])}"
            )
    layout["height"] = 60 + 210 * rows
    words = f"Mean {metric_name(metric)} over all other parameters, with 95 % bands. Lowest and highest: {'; '.join(said)}."
    return figure("Marginal effects", traces, layout, words)


def _effect(effect: dict[str, Any], x: str, y: str) -> list[dict[str, Any]]:
    at = {"type": "scatter", "x": [drawn(v) if isinstance(v, str) else v for v in effect["x"]], "xaxis": x, "yaxis": y}
    if effect["kind"] == "choice":
        bars = error_bars(effect["mean"], effect["low"], effect["high"])
        return [at | {"mode": "markers", "y": effect["mean"], "error_y": bars, "marker": {"color": BLUE, "size": 8}}]
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    return [
        at | edge | {"y": effect["low"]},
        at | edge | {"y": effect["high"], "fill": "tonexty", "fillcolor": "rgba(0,114,178,0.2)"},
        at | {"mode": "lines", "y": effect["mean"], "line": {"color": BLUE, "width": 2}},
    ]


def _interaction(found: dict[str, Any], metric: str) -> Html:
    first, second = found["pair"]
    kinds = [{"log": "log", "number": "linear"}.get(kind, "category") for kind in found["kinds"]]
    mean = found["mean"]  # rows along x; Plotly's rows run along y
    turned = [[row[place] for row in mean] for place in range(len(found["y"]))]
    trace = {
        "type": "heatmap",
        "x": [drawn(v) if isinstance(v, str) else v for v in found["x"]],
        "y": [drawn(v) if isinstance(v, str) else v for v in found["y"]],
        "z": turned,
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": metric_name(metric)}, "outlinewidth": 0},
    }
    strength = found["strength"]
    words = (
        f"Mean {metric_name(metric)} by {first} and {second}. Their interaction is {_interval(strength)} of the pair's joint variance (Friedman's H², 0: "
        "effects add up; 95 % bootstrap interval)."
    )
    layout = {
        "xaxis": {"title": {"text": drawn(first)}, "type": kinds[0]},
        "yaxis": {"title": {"text": drawn(second)}, "type": kinds[1]},
        "height": 380,
    }
    return figure("Interaction", [trace | {"xgap": 1, "ygap": 1}], layout, words)
