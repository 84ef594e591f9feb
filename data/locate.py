"""Where BreakHis usually lies, on a laptop and in the cloud."""

import os
from pathlib import Path

FOLDERS = ("BreaKHis_v1", "BreakHis", "breakhis", "BreaKHis")
ARCHIVES = ("BreaKHis_v1.tar.gz", "BreaKHis_v1.zip", "breakhis.zip", "archive.zip")
PARENTS = (
    ".",
    "data",
    "datasets",
    "~",
    "~/data",
    "~/datasets",
    "~/Downloads",
    "/data",
    "/datasets",
    "/mnt/data",
    "/mnt/datasets",
    "/content",
    "/content/drive/MyDrive",  # Colab
    "/kaggle/input",  # Kaggle
    "/opt/ml/input/data/training",
    "/opt/ml/input/data",  # SageMaker
    "/gcs",
    "/mnt/disks/data",  # Vertex AI, Google Cloud
    "/mnt/batch/tasks/shared",
    "/dbfs/FileStore",  # Azure, Databricks
)


def find_breakhis() -> Path | None:
    """$BREAKHIS_ROOT, else the first of the usual places that exists, else None."""
    if root := os.environ.get("BREAKHIS_ROOT"):
        return Path(root)
    for parent in PARENTS:
        for name in FOLDERS + ARCHIVES:
            place = Path(parent).expanduser() / name
            if place.exists() and (place.is_file() or any(place.iterdir())):
                return place
    return None
