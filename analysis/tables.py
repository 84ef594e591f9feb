"""One table, written for machines and for papers: CSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from study.records import whole_file

_LATEX = str.maketrans(
    {symbol: rf"\{symbol}" for symbol in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    | {"±": r"$\pm$", "–": "--", "−": "$-$", "κ": r"$\kappa$"}
)


def metric_in_words(metric: str) -> str:
    """`patient AUC` for patient_auc, in a sentence."""
    return metric.replace("auc", "AUC").replace("_", " ")


def interval_text(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """`0.912 (0.84–0.97)`, a dash where there is no number; `sign` "+", for differences: `+0.012 (-0.005,+0.030)`."""
    if value is None or value != value:
        return "–"
    if low is None or high is None or low != low:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} ({low:{sign}.3f},{high:{sign}.3f})" if sign else f"{value:.3f} ({low:.2f}–{high:.2f})"


def narrow_table(title: str, columns: Iterable[str]) -> Table:
    """A table for the terminal, 80 columns wide with some thought: text on the left, numbers on the right, no line broken."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def write_table(path: Path, columns: list[str], rows: list[list[Any]], caption: str = "") -> None:
    """A .csv, .md or .tex by the suffix of `path`; the caption stands in the last two."""
    text = {".csv": _csv, ".md": _markdown, ".tex": _latex}[path.suffix](columns, rows, caption)
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as building:
        building.write_text(text)


def _csv(columns: list[str], rows: list[list[Any]], caption: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def _markdown(columns: list[str], rows: list[list[Any]], caption: str) -> str:
    lines = [f"{caption}\n"] if caption else []
    for cells in (columns, ["---"] * len(columns), *rows):
        lines.append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _latex(columns: list[str], rows: list[list[Any]], caption: str) -> str:
    """A table environment that needs only \\usepackage{booktabs}."""

    def line(cells: list[Any]) -> str:
        return " & ".join(str(cell).translate(_LATEX) for cell in cells) + r" \\"

    head = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption.translate(_LATEX)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
    ]
    body = [r"\toprule", line(columns), r"\midrule", *(line(row) for row in rows), r"\bottomrule"]
    return "\n".join([*head, *body, r"\end{tabular}", r"\end{table}"]) + "\n"
