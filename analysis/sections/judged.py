"""How good the judged trial is, in every way that its out-of-fold predictions allow."""

from typing import Any

from analysis.calibration import SCORE_NAMES
from analysis.figure import BLUE, ORANGE
from analysis.material import Judged, Material
from analysis.page import Html, Section, error_bars, figure, heading, joined, number, paragraph, table
from analysis.performance import NAMES
from analysis.roc_curves import KINDS, THIN, Curve
from analysis.sections.answer import metric_name
from analysis.tables import interval_text

PANELS = {"patient": "patients", "image": "images"}
BANDS = ("rgba(0,114,178,0.18)", "rgba(230,159,0,0.18)", "rgba(0,158,115,0.18)", "rgba(213,94,0,0.18)", "rgba(204,121,167,0.18)")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # magnifications are told apart without colour as well
THRESHOLD_COLUMNS = ["rule", "threshold", "bal. acc.", "optimistic", "F1", "optimistic", "sensitivity", "specificity"]


def not_yet(anchor: str, title: str) -> Section:
    return Section(anchor, title, paragraph("No trial has predictions on record yet."))


def naive_note(material: Material, judged: Judged) -> Html:
    """What the numbers of these parts are, and are not."""
    several = judged.name.startswith(("outer folds", "mean of "))
    of = f"the {judged.name}" if several else f"trial {judged.name}"
    chosen = (
        "The trial and its epoch were chosen by such predictions of all trials, so these numbers are optimistic; the corrected ones stand under Answer."
        if material.searched
        else "Its epoch was chosen by them, so they are slightly optimistic."
    )
    if judged.name == "outer folds":
        chosen = "Nothing was chosen by them."
    return paragraph(f"Out-of-fold predictions of {of}. {chosen}", kind="note")


def performance(material: Material) -> Section:
    judged = material.judged
    if judged is None:
        return not_yet("performance", "Performance")
    columns, rows = performance_rows(judged)
    caption = (
        f"Pooled over folds, decisions at 0.5, with 95 % percentile bootstrap intervals over patients, stratified by class "
        f"({judged.performance['resamples']} resamples)."
    )
    return Section("performance", "Performance", joined(naive_note(material, judged), table(columns, rows, caption)))


def performance_rows(judged: Judged) -> tuple[list[str], list[list[str]]]:
    """Every metric, a column a level."""
    levels = judged.performance["levels"]
    names = ("patient", "view", "image")
    columns = ["metric", *(f"{levels[name]['units']} {name}s" for name in names)]
    return columns, [
        [text, *(interval_text(**levels[name]["metrics"][metric]["pooled"]) for name in names)] for metric, text in NAMES.items()
    ]


def curves(material: Material) -> Section:
    judged = material.judged
    if judged is None:
        return not_yet("roc", "ROC and precision-recall")
    figures = [_curves(key, judged) for key in KINDS]
    return Section("roc", "ROC and precision-recall", joined(naive_note(material, judged), *figures))


def _curves(key: str, judged: Judged) -> Html:
    """Two panels: patients with their folds, and images by magnification."""
    kind = KINDS[key]
    traces: list[dict[str, Any]] = []
    said = []
    for panel, level in enumerate(PANELS):
        parts = {name: found[key] for name, found in judged.curves[level].items()}
        axes = {"xaxis": "x2", "yaxis": "y2"} if panel else {}
        traces.append(_chance(key, judged, level) | axes)
        folds = {name: curve for name, curve in parts.items() if name.startswith("fold")} if level == "patient" else {}
        shown = {name: curve for name, curve in parts.items() if name.endswith("X")} if level == "image" else {}
        thick = shown if len(shown) > 1 else {"pooled": parts["pooled"]}
        for name, curve in folds.items():
            place = int(name.removeprefix("fold ")) - 1
            traces.append(_line(key, curve, name, THIN[place % len(THIN)], 0.8, "solid") | axes)
        for place, (name, curve) in enumerate(thick.items()):
            color, dash = (BLUE, *THIN)[place % (len(THIN) + 1)], DASHES[place % len(DASHES)]
            traces += [trace | axes for trace in _band(key, curve, BANDS[place % len(BANDS)])]
            traces.append(
                _line(
                    key, curve, f"{PANELS[level]}{'' if name == 'pooled' else ' ' + name}: {interval_text(*curve.area)}", color, 2.4, dash
                )
                | axes
            )
            said.append(f"{PANELS[level]}{'' if name == 'pooled' else ' at ' + name} {interval_text(*curve.area)}")
    words = f"Area ({kind.area}) with its 95 % interval over patients: {'; '.join(said)}. Bands are pointwise and vertical; on the left also each fold, dotted: chance."
    axis = {"range": [-0.02, 1.02], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    layout: dict[str, Any] = {"height": 460, "annotations": []}
    for panel, level in enumerate(PANELS):
        suffix, left = ("2", 0.56) if panel else ("", 0)
        layout[f"xaxis{suffix}"] = axis | {"domain": [left, left + 0.44], "title": {"text": kind.axes[0]}, "anchor": f"y{suffix}"}
        layout[f"yaxis{suffix}"] = axis | {"title": {"text": kind.axes[1]}, "anchor": f"x{suffix}"}
        layout["annotations"].append(
            {
                "x": left,
                "y": 1.02,
                "xref": "paper",
                "yref": "paper",
                "text": PANELS[level],
                "showarrow": False,
                "xanchor": "left",
                "yanchor": "bottom",
            }
        )
    return figure(kind.title, traces, layout, words)


def _line(key: str, curve: Curve, name: str, color: str, width: float, dash: str) -> dict[str, Any]:
    line = {"color": color, "width": width, "dash": dash, "shape": "vh" if key == "pr" else "linear"}
    return {"type": "scatter", "mode": "lines", "name": name, "x": _short(curve.x), "y": _short(curve.y), "line": line}


def _band(key: str, curve: Curve, color: str) -> list[dict[str, Any]]:
    shape = {"shape": "vh" if key == "pr" else "linear", "width": 0}
    edge = {"type": "scatter", "mode": "lines", "x": _short(curve.x), "line": shape, "hoverinfo": "skip", "showlegend": False}
    return [edge | {"y": _short(curve.low)}, edge | {"y": _short(curve.high), "fill": "tonexty", "fillcolor": color}]


def _chance(key: str, judged: Judged, level: str) -> dict[str, Any]:
    share = float(judged.predictions.level(level).label.mean())
    y = [0, 1] if key == "roc" else [share, share]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": y,
        "line": {"color": "#000", "width": 1, "dash": "dot"},
        "name": "chance",
        "showlegend": False,
    }


def _short(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def calibration(material: Material) -> Section:
    judged = material.judged
    if judged is None:
        return not_yet("calibration", "Calibration")
    parts = [naive_note(material, judged), _reliability(judged.calibration)]
    for level, found in judged.calibration["levels"].items():
        rows = [
            [SCORE_NAMES[score], number(row["before"]), number(row["after"]), interval_text(**row["difference"], sign="+")]
            for score, row in found["scores"].items()
        ]
        caption = (
            f"{found['units']} {level}s before and after temperature scaling (fitted on the other folds; {found['temperature']:.2f} on all). "
            f"By chance alone the calibration error would be {number(found['calibration_error_by_chance'])}."
        )
        verdict = paragraph(found["verdict"][0].upper() + found["verdict"][1:] + ".")
        parts += [heading(f"{level.capitalize()}s"), table(["score", "before", "after", "after − before (95 %)"], rows, caption), verdict]
    return Section("calibration", "Calibration", joined(*parts))


def _reliability(report: dict[str, Any]) -> Html:
    """A reliability diagram of views and one of patients."""
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": 400, "annotations": []}
    said = []
    for panel, (level, found) in enumerate(report["levels"].items()):
        suffix, left = ("2", 0.56) if panel else ("", 0)
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [0, 1],
                "y": [0, 1],
                "line": {"color": "#000", "width": 1, "dash": "dot"},
                "showlegend": False,
            }
            | axes
        )
        for when, color, symbol in (("before", ORANGE, "square-open"), ("after", BLUE, "circle")):
            rows = found["bins"][when]
            value, low, high = ([row[key] for row in rows] for key in ("observed", "low", "high"))
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"{when} scaling",
                    "legendgroup": when,
                    "showlegend": panel == 0,
                    "x": [row["probability"] for row in rows],
                    "y": value,
                    "error_y": error_bars(value, low, high),
                    "line": {"color": color, "width": 1},
                    "marker": {"color": color, "symbol": symbol, "size": 8},
                }
                | axes
            )
        axis = {"range": [-0.03, 1.03], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
        layout[f"xaxis{suffix}"] = axis | {
            "domain": [left, left + 0.44],
            "title": {"text": "predicted probability of malignant"},
            "anchor": f"y{suffix}",
        }
        layout[f"yaxis{suffix}"] = axis | {"title": {"text": "observed share"}, "anchor": f"x{suffix}"}
        layout["annotations"].append(
            {
                "x": left,
                "y": 1.02,
                "xref": "paper",
                "yref": "paper",
                "text": f"{level}s",
                "showarrow": False,
                "xanchor": "left",
                "yanchor": "bottom",
            }
        )
        error = found["scores"]["calibration_error"]["before"]
        said.append(
            f"{level.capitalize()}s: mean probability {number(found['mean_probability'], 2)} where {number(found['malignant_share'], 2)} are malignant, "
            f"calibration error {number(error)} ({number(found['calibration_error_by_chance'])} by chance)"
        )
    words = f"Observed share of malignant against predicted probability, in bins of equal count with 95 % intervals; dotted: perfect. {'. '.join(said)}."
    return figure("Reliability", traces, layout, words)


def thresholds(material: Material) -> Section:
    judged = material.judged
    if judged is None:
        return not_yet("thresholds", "Thresholds")
    tables = [table(THRESHOLD_COLUMNS, threshold_rows(judged, level), f"Over {level}s.") for level in ("patient", "image")]
    words = paragraph(
        "Each fold is called by the threshold that the other folds chose; “optimistic” is each fold by the one that it chose itself. The threshold "
        "shown was chosen on all folds: it is the one for new patients.",
        kind="note",
    )
    return Section("thresholds", "Thresholds", joined(naive_note(material, judged), *tables, words))


def threshold_rows(judged: Judged, level: str) -> list[list[str]]:
    """A row a rule, of THRESHOLD_COLUMNS."""
    rows = []
    for row in judged.thresholds["levels"][level]:
        honest, optimistic = row["honest"], row["optimistic"]
        both = [number(part[metric]) for metric in ("balanced_accuracy", "f1") for part in (honest, optimistic)]
        rows.append([row["rule"], number(row["threshold"], 2), *both, number(honest["sensitivity"]), number(honest["specificity"])])
    return rows


def sealed_test(material: Material) -> Section:
    """What the sealed patients said, as a whole: none of them is shown."""
    title = "Sealed test"
    if material.openings:
        rows = table(SEALED_COLUMNS, sealed_rows(material.openings[-1]))
        return Section("sealed", title, joined(paragraph(*sealed_sentences(material)), rows))
    return Section("sealed", title, paragraph(*sealed_sentences(material)))


SEALED_COLUMNS = ["metric", "value (95 %)"]


def sealed_sentences(material: Material) -> list[str]:
    patients, slides = material.about.get("sealed_patients"), material.about["splits"]["test"]  # earlier versions recorded slides only
    count, openings = f"{len(patients)} patients" if patients else f"{len(slides)} slides", material.openings
    if openings:
        sealed, before = openings[-1], ", ".join(opening["opened"] for opening in openings[:-1])
        return [
            f"Opened on {sealed['opened']}: {len(sealed['patients'])} patients, mean of the fold models ({sealed['interval']}).",
            *([f"This is opening {len(openings)}; those before were on {before}, and the first is the honest one."] if before else []),
        ]
    if slides:
        return [f"{count} are sealed. They have not been opened, and nothing on this page rests on them."]
    return ["No patients were sealed."]


def sealed_rows(sealed: dict[str, Any]) -> list[list[str]]:
    return [[metric_name(name), interval_text(**row)] for name, row in sealed["metrics"].items()]
