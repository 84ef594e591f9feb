"""Tables say the same to machines, to Markdown and to LaTeX."""

import csv
import io

import pytest
from rich.console import Console

from analysis.tables import interval_text, narrow_table, write_table

COLUMNS = ["name", "value"]
ROWS = [["a, b", 0.5], ["x|y", "0.912 (0.84–0.97)"], ["50 % & more_of #1", None]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0.9123, 0.8449, 0.971), "0.912 (0.84–0.97)"),
        ((0.012, -0.0051, 0.03, "+"), "+0.012 (-0.005,+0.030)"),
        ((-0.5, -0.6, -0.4, "+"), "-0.500 (-0.600,-0.400)"),
        ((0.5, None, None), "0.500"),
        ((0.5, float("nan"), float("nan")), "0.500"),
        ((0.5, None, None, "+"), "+0.500"),
        ((None, None, None), "–"),
        ((float("nan"), 0.1, 0.2), "–"),
    ],
)
def test_an_interval_as_text(given, expected):
    assert interval_text(*given) == expected


def test_a_csv_reads_back(tmp_path):
    path = tmp_path / "results" / "t.csv"  # the folder is made
    write_table(path, COLUMNS, ROWS, "a caption has no place here")
    with path.open() as file:
        assert list(csv.reader(file)) == [COLUMNS, ["a, b", "0.5"], ["x|y", "0.912 (0.84–0.97)"], ["50 % & more_of #1", ""]]


def test_markdown_keeps_bars_in_their_cell(tmp_path):
    path = tmp_path / "t.md"
    write_table(path, COLUMNS, ROWS[:2], "The caption")
    assert path.read_text().splitlines() == [
        "The caption",
        "",
        "| name | value |",
        "| --- | --- |",
        "| a, b | 0.5 |",
        r"| x\|y | 0.912 (0.84–0.97) |",
    ]


def test_latex_escapes_what_it_would_read_as_commands(tmp_path):
    path = tmp_path / "t.tex"
    write_table(path, ["na_me", "κ", "n"], [["50 % & #1", "0.9 ± 0.1", "−1–2"], [r"$x^2$ {a}\b~", "<5", ">3"]], "All of_it, 95 %")
    assert path.read_text().splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{All of\_it, 95 \%}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"na\_me & $\kappa$ & n \\",
        r"\midrule",
        r"50 \% \& \#1 & 0.9 $\pm$ 0.1 & $-$1--2 \\",
        r"\$x\textasciicircum{}2\$ \{a\}\textbackslash{}b\textasciitilde{} & $<$5 & $>$3 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_writing_again_replaces_the_file_whole(tmp_path):
    path = tmp_path / "t.csv"
    for rows in (ROWS, ROWS[:1]):
        write_table(path, COLUMNS, rows)
    assert path.read_text() == 'name,value\n"a, b",0.5\n' and list(tmp_path.iterdir()) == [path]


def test_a_narrow_table_has_text_on_the_left_and_numbers_on_the_right():
    table = narrow_table("title", ("method", "value"))
    table.add_row("a", "1.0")
    table.add_row("longer", "10.0")
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    lines = out.getvalue().splitlines()
    assert lines[0].strip() == "title"
    assert [line.rstrip() for line in lines[-2:]] == ["a         1.0", "longer   10.0"]
