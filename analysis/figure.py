"""What all figures share: colours that colour-blind readers tell apart, and PNG and PDF files that appear whole."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - after the backend is chosen
from matplotlib.figure import Figure  # noqa: E402

from study.records import whole_file  # noqa: E402

# Okabe & Ito, Color Universal Design, 2008
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY)


def save_figure(figure: Figure, path: Path, title: str, synthetic: bool) -> None:
    """Title it (synthetic data says so), write `path` (.png) and the same as .pdf, and close it."""
    figure.suptitle(title + ("\nSYNTHETIC DATA" if synthetic else ""), fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".pdf"):
        with whole_file(path.with_suffix(suffix)) as building, building.open("wb") as file:
            # a date in the file would make each run's differ
            figure.savefig(file, format=suffix[1:], dpi=200, metadata={"CreationDate": None} if suffix == ".pdf" else None)
    plt.close(figure)
