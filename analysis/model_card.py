"""MODEL_CARD.md: what the report says, short, in the form of Mitchell et al., Model Cards for Model Reporting, FAT* 2019."""

import re
from collections.abc import Sequence
from typing import Any

from analysis.material import Material
from analysis.page import plain
from analysis.sections.answer import corrected_rows, sentences, text_of_value
from analysis.sections.audit import data_sentences, leak_checks, part_rows
from analysis.sections.cost import cost_sentences
from analysis.sections.judged import SEALED_COLUMNS, THRESHOLD_COLUMNS, performance_rows, sealed_rows, sealed_sentences, threshold_rows
from analysis.sections.methods import methods_text, reproduction_rows

_MARKS = re.compile(r"([\\`*_\[\]<>|#])")


def model_card(material: Material) -> str:
    """The whole file."""
    about, judged, trust = material.about, material.judged, material.trust
    parts = [f"# Model card: {_text(about['name'])}"]
    if material.synthetic:
        parts.append("**SYNTHETIC DATA**: the numbers below say nothing about patients.")
    parts += [_text(" ".join(sentences(material))), "## Model details", _table(["what", "value"], reproduction_rows(material))]
    if judged is not None and judged.record.params:
        params = [[path, text_of_value(value)] for path, value in judged.record.params.items()]
        parts += [f"Searched parameters of trial {_text(judged.name)}:", _table(["parameter", "value"], params)]
    parts += [
        "## Intended use",
        "Research on patient-wise classification of breast histology images as benign or malignant. Not a medical device, not for diagnosis.",
        "## Data",
        _text(" ".join(data_sentences(material))),
        _table(*part_rows(material)),
        "\n".join(f"- {'holds' if holds else 'FAILS'}: {_text(words)}" for holds, words in leak_checks(material)),
        "## Numbers",
    ]
    if trust["ready"] and material.searched:
        recommended = trust["recommended"]["trial"]
        parts += [
            f"Recommended trial {_text(recommended)}, corrected for the choice (95 % intervals over {trust['patients']} patients):",
            _table(["metric", "corrected (95 %)", "optimistic", "optimistic − corrected"], corrected_rows(trust)),
        ]
    if judged is not None:
        parts += [
            "Out of fold as it stands" + (", optimistic where the trial was chosen by it:" if material.searched else ":"),
            _table(*performance_rows(judged)),
            "Thresholds over patients, each fold called by that of the other folds:",
            _table(THRESHOLD_COLUMNS, threshold_rows(judged, "patient")),
            "Calibration: "
            + "; ".join(f"{level}s: {_text(found['verdict'])}" for level, found in judged.calibration["levels"].items())
            + ".",
        ]
    parts += ["Sealed test: " + _text(" ".join(sealed_sentences(material)))]
    if material.openings:
        parts.append(_table(SEALED_COLUMNS, sealed_rows(material.openings[-1])))
    parts += ["## Caveats", _caveats(material), "## Cost", _text(" ".join(cost_sentences(material))), "## Methods"]
    parts += [
        _text(paragraph) if not paragraph.startswith("References") else _references(paragraph) for paragraph in methods_text(material)
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caveats(material: Material) -> str:
    trust = material.trust
    said = list(trust.get("notes", []))
    if material.running:
        said.append("The study was still running when this was written.")
    said += [
        "Images of one public collection, one stain and one laboratory say little about another laboratory, scanner or population.",
        "No subgroup but class and magnification is known, so fairness between groups of patients was not examined.",
    ]
    return "\n".join(f"- {_text(words)}" for words in said)


def _references(paragraph: str) -> str:
    head, *lines = paragraph.splitlines()
    return f"{head}:\n\n" + "\n".join(f"{line.split(' ', 1)[0]} {_text(line.split(' ', 1)[1])}" for line in lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in cells)


def _text(value: Any) -> str:
    """A value as Markdown that stands for itself: no markup, no HTML, one line."""
    return _MARKS.sub(r"\\\1", " ".join(plain(value).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
