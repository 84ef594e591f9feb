"""Where BreakHis usually lies, on a laptop and in the cloud."""

import os
from pathlib import Path

FOLDERS = ("BreaKHis_v1", "BreakHis", "breakhis", "BreaKHis")
ARCHIVES = ("BreaKHis_v1.tar.gz", "BreaKHis_v1.zip", "breakhis.zip", "archive.zip")
LAPTOP = (".", "data", "datasets", "~", "~/data", "~/datasets", "~/Downloads", "/data", "/datasets", "/mnt/data", "/mnt/datasets")
NOTEBOOKS = ("/content", "/content/drive/MyDrive", "/kaggle/input")  # Colab, Kaggle
CLOUDS = ("/opt/ml/input/data/training", "/opt/ml/input/data", "/gcs", "/mnt/disks/data")  # SageMaker, Google Cloud
CLUSTERS = ("/mnt/batch/tasks/shared", "/dbfs/FileStore")  # Azure, Databricks
PARENTS = LAPTOP + NOTEBOOKS + CLOUDS + CLUSTERS


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
