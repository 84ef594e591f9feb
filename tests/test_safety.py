"""Nothing read from a file runs, and nothing is sent anywhere: rules on the code that ruff's S does not have."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import MAY, ROOT

FILES = sorted(ROOT.glob("*.py")) + sorted(path for room in (*MAY, "bench") for path in (ROOT / room).rglob("*.py"))
EXECUTES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}  # when it reads
SENDS = {
    "urllib",
    "http",
    "requests",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "huggingface_hub",
    "wandb",
    "mlflow",
    "comet_ml",
    "sentry_sdk",
}
NEVER = {"allow_pickle", "LOAD_TRUNCATED_IMAGES", "trust_remote_code", "add_safe_globals", "safe_globals"}


def offences(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in EXECUTES | SENDS and name != "urllib.parse"]
        elif isinstance(node, ast.Attribute | ast.keyword):
            name = node.attr if isinstance(node, ast.Attribute) else node.arg
            found += [name] if name in NEVER else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found += [] if said.get("weights_only") == "True" else ["torch.load"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
            found += [] if any(keyword.arg == "formats" for keyword in node.keywords) else ["Image.open"]
    return found


# its own figure is what TensorBoard is given; the benchmark decodes as others do, to compare
OWN_FILES = {"tuning/tensorboard.py": ["Image.open"], "bench/data.py": ["Image.open", "Image.open"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_executes_and_nothing_is_sent(path):
    assert offences(path.read_text()) == OWN_FILES.get(str(path.relative_to(ROOT)), [])


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "from PIL import ImageFile; ImageFile.LOAD_TRUNCATED_IMAGES = True",
        "from PIL import Image; Image.open(path)",
    ],
)
def test_an_offence_is_seen_also_inside_a_function(line):
    assert offences(line) and offences(f"def later():\n    {line}\n")


LIBRARY = """
import pickle, sys, mmnet, torch
class Hostile:
    def __reduce__(self):
        return print, ("executed",)
path = sys.argv[1]
with open(path, "wb") as file:
    pickle.dump({"a": Hostile()}, file)
try:
    torch.load(path, weights_only=False)  # as torchvision's download does
except pickle.UnpicklingError:
    print("refused")
"""


@pytest.mark.slow
def test_a_library_that_asks_torch_for_more_than_tensors_is_refused(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", LIBRARY, tmp_path / "weights.pth"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr
