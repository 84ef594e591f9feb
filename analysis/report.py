"""report.html and MODEL_CARD.md of a study as it stands, also while it runs."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.front import objectives_of
from analysis.material import Material, read_material, write_tables
from analysis.model_card import model_card
from analysis.page import page
from analysis.sections.answer import answer
from analysis.sections.audit import audit
from analysis.sections.cost import cost
from analysis.sections.front import pareto
from analysis.sections.judged import calibration, curves, performance, sealed_test, thresholds
from analysis.sections.methods import methods, versions
from analysis.sections.parameters import importance, parallel
from analysis.sections.patients import patients
from analysis.sections.search import history, leaderboard, learning
from analysis.trust import write_trust
from data.dataset import Dataset
from data.errors import InputError
from study.command_line import SYNTHETIC, progress_bar
from study.folder import read_study
from study.records import whole_file

SECTIONS = (
    answer,
    audit,
    cost,
    pareto,
    leaderboard,
    history,
    learning,
    parallel,
    importance,
    performance,
    curves,
    calibration,
    patients,
    thresholds,
    sealed_test,
    methods,
    versions,
)
OF_A_SEARCH = (history, parallel, importance)


def write_report(study: Path) -> tuple[Path, dict[str, Any]]:
    """Write report.html, MODEL_CARD.md, results/trust.json and results/report/; returns (the page, what `write_trust` found).

    Raises InputError without a study.
    """
    trust = write_trust(study)
    return write_page(study, trust, open_pixels(study)), trust


def write_page(study: Path, trust: dict[str, Any], dataset: Dataset | None = None) -> Path:
    """`write_report` from statistics that are there already (results/trust.json)."""
    material = read_material(study, trust, dataset)
    write_tables(study, material)
    path = study / "report.html"
    for name, text in ((path, report_page(material)), (study / "MODEL_CARD.md", model_card(material))):
        with whole_file(name) as building:
            building.write_text(text, encoding="utf-8")
    return path


def report_page(material: Material) -> str:
    """The page of a study."""
    left_out = {*(() if material.searched else OF_A_SEARCH), *(() if len(objectives_of(material.about)) > 1 else (pareto,))}
    chosen = [section for section in SECTIONS if section not in left_out]
    banner = (
        "SYNTHETIC DATA: invented tissue that this project generates; nothing below says anything about patients."
        if material.synthetic
        else ""
    )
    title = f"MMNet Tune: {material.about['name']}, as of {time.strftime('%Y-%m-%d %H:%M %Z')}"
    return page(title, banner, [section(material) for section in chosen])


def open_pixels(study: Path) -> Dataset | None:
    """The data set of a study with its pixels, from the decoded cache; None where it is not on this machine."""
    from mmnet.config import Config
    from study.command_line import open_data

    about = read_study(study)
    path, config = about["data"].get("path"), about["config"]["data"]
    if path is None or (path != SYNTHETIC and not Path(path).exists()):
        return None
    try:
        with progress_bar(Console(stderr=True), "decoding images") as progress:
            return open_data(Config().with_values({"data": config}), path, progress)
    except InputError:
        return None
