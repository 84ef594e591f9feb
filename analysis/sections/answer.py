"""The answer: which configuration, how good it is once the choice is paid for, and what it cannot be told from."""

from typing import Any

from analysis.figure import BLUE, GREEN, GREY, ORANGE, SKY
from analysis.material import Material
from analysis.page import Html, Section, bullets, drawn, error_bars, figure, heading, joined, number, pairs, paragraph, sentence, table
from analysis.performance import NAMES
from analysis.tables import interval_text
from mmnet.config import text_of
from study.members import member_names

SHOWN = ("log_loss", "auc", "balanced_accuracy", "patient_auc", "patient_balanced_accuracy")
ROWS = 30  # of the figure of the tie set
STATES = {"best": GREEN, "tied": BLUE, "undecided": ORANGE, "stopped": GREY, "worse": GREY}


def answer(material: Material) -> Section:
    trust = material.trust
    parts = [Html(f'<div class="answer">{joined(*map(paragraph, sentences(material)))}</div>')]
    if material.running:
        ended = sum(record.status != "running" for record in material.records)
        planned = material.about.get("settings", {}).get("trials", len(material.records))
        parts.append(
            paragraph(
                f"The study is still running: {ended} of {planned} planned trials have ended. Every number may change.", kind="warning"
            )
        )
    if trust["ready"] and trust["notes"]:
        parts.append(bullets(map(sentence, trust["notes"])))
    if trust["ready"] and material.searched:
        parts += [_scores(trust), *_mean(trust), _tie_set(trust), paragraph(sentence(trust["noise"]["words"])), _configuration(trust)]
    return Section("answer", "Answer", joined(*parts))


def sentences(material: Material) -> list[str]:
    """The three sentences of the report and of the model card."""
    trust, judged = material.trust, material.judged
    if material.searched:
        return trust["sentences"] if trust["ready"] else [f"There is no answer yet: {trust['why'].rstrip('.')}."]
    if judged is None:
        return ["There is no answer yet: no network has been judged on patients that it never saw."]
    members = member_names(material.about)
    views = judged.performance["levels"]["view"]
    auc = interval_text(**judged.performance["levels"]["patient"]["metrics"]["auc"]["pooled"])
    if members:
        return [
            f"{len(members)} configurations were trained as they were given ({', '.join(members)}); judged is the mean of their predictions.",
            f"Over patients its out-of-fold AUC is {auc}, with the 95 % interval over {views['patients']} patients.",
            "How its members do alone stands in results/mean.csv.",
        ]
    return [
        "One configuration was trained as it was given; nothing was chosen among configurations.",
        f"Over patients its out-of-fold AUC is {auc}, with the 95 % interval over {views['patients']} patients.",
        "There is no other configuration that it could be tied with.",
    ]


def metric_name(metric: str) -> str:
    """`patient AUC` for patient_auc."""
    base = metric.removeprefix("patient_")
    return ("patient " if base != metric else "") + NAMES.get(base, base.replace("_", " "))


def shown_metrics(metric: str) -> tuple[str, ...]:
    """The metrics of the tables, the one that was searched by first."""
    return (metric, *(name for name in SHOWN if name != metric))


def corrected_rows(trust: dict[str, Any], which: str = "recommended") -> list[list[str]]:
    """[metric, corrected with its interval, optimistic, their difference] of the recommended trial, or of the winner."""
    found = trust["corrected"][which]
    return [
        [metric_name(name), interval_text(row["value"], row["low"], row["high"]), number(row["naive"]), _signed(row["optimism"])]
        for name in shown_metrics(trust["metric"])
        if (row := found.get(name)) is not None
    ]


def _scores(trust: dict[str, Any]) -> Html:
    columns = ["metric", "corrected (95 %)", "optimistic", "optimistic − corrected"]
    chosen, winner = trust["recommended"]["trial"], trust["winner"]["trial"]
    tables = [table(columns, corrected_rows(trust), f"Recommended: trial {chosen}, judged over {trust['patients']} patients.")]
    if winner != chosen:
        tables.append(table(columns, corrected_rows(trust, "winner"), f"Best by the raw score: trial {winner}."))
    recommended, corrected = trust["recommended"], trust["corrected"]
    notes = (
        paragraph(f"Why this one: {sentence(recommended['why'])} The rule: {sentence(recommended['rule'])}", kind="note"),
        paragraph(f"Corrected by {corrected['method'].rstrip('.')}. {sentence(corrected['words'])}", kind="note"),
    )
    return joined(heading("What it is worth"), *tables, *notes)


def _mean(trust: dict[str, Any]) -> list[Html]:
    found = trust["mean"]
    if found is None:
        return []
    rows = [
        [metric_name(name), number(found["honest"][name]), number(found["single"][name]), _signed(found["honest"][name] - found["single"][name])]
        for name in shown_metrics(trust["metric"])
    ]
    columns = ["metric", "mean of three", "one trial", "difference"]
    words = "Each fold is judged by what the others chose, the three as well as the one; the networks of all three are needed to use it."
    return [
        heading("The mean of the best three"),
        table(columns, rows, f"Mean of the predictions of trials {', '.join(found['trials'])}, and the best single trial."),
        paragraph(words, kind="note"),
    ]


def _configuration(trust: dict[str, Any]) -> Html:
    rows = [[path, text_of_value(value)] for path, value in trust["recommended"]["params"].items()]
    note = paragraph("Searched parameters; all others are those of the base configuration, see Versions and seeds.", kind="note")
    return joined(heading("Recommended configuration"), note, pairs(rows))


def text_of_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(text_of(value))


def _tie_set(trust: dict[str, Any]) -> Html:
    ties = trust["tie_set"]
    rows = [row for row in ties["rows"] if row["low"] is not None and row["high"] is not None]
    shown = rows[:ROWS]
    labels = [f"trial {row['trial']}{' (recommended)' if row['recommended'] else ''}" for row in shown]
    traces = []
    for state, color in STATES.items():
        places = [place for place, row in enumerate(shown) if row["state"] == state]
        if not places:
            continue
        here = [shown[place] for place in places]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": {"stopped": "stopped, worse", "undecided": "stopped, undecided"}.get(state, state),
                "x": [row["difference"] for row in here],
                "y": [drawn(labels[place]) for place in places],
                "error_x": error_bars(*([row[key] for row in here] for key in ("difference", "low", "high"))),
                "marker": {"color": color, "size": 8, "symbol": [_symbol(row) for row in here]},
            }
        )
    words = (
        f"{ties['size']} of {ties['compared']} full-length trials form the tie set, the best included; {ties['undecided']} trials that were "
        f"stopped early could not be told from the best at their last epoch. Shown: the first {len(shown)} of {len(ties['rows'])} trials with "
        f"their paired difference to the best and its 95 % interval, one at a time; a diamond is the recommended one."
    )
    layout = {
        "height": 130 + 19 * max(len(shown), 4),
        "xaxis": {"title": {"text": f"difference to the best in {metric_name(trust['metric'])}"}, "zeroline": True, "zerolinecolor": SKY},
        "yaxis": {
            "autorange": "reversed",
            "categoryorder": "array",
            "categoryarray": [drawn(label) for label in labels],
            "showgrid": False,
        },
    }
    method = paragraph(f"Tied by {ties['method'].rstrip('.')}. {sentence(ties['rule'])} {sentence(ties['words'])}", kind="note")
    return joined(heading("What it is tied with"), figure("Tie set", traces, layout, words), method)


def _symbol(row: dict[str, Any]) -> str:
    return "diamond" if row["recommended"] else "circle"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
