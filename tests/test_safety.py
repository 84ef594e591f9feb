"""Nothing read from a file runs, and nothing is sent anywhere: rules on the code that ruff's S does not have."""

import ast
import pickle

import numpy as np
import pytest
import torch

import mmnet  # noqa: F401
from mmnet.weights import _scalars
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
            taken = {f"{node.module}.{alias.name}" for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            found += sorted(taken & {"torch.load", "PIL.Image.open"})  # by another name its arguments would not be seen
        elif isinstance(node, ast.Attribute | ast.keyword):
            name = node.attr if isinstance(node, ast.Attribute) else node.arg
            found += [name] if name in NEVER else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found += [] if said.get("weights_only") == "True" else ["torch.load"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
            found += [] if any(keyword.arg == "formats" for keyword in node.keywords) else ["Image.open"]
    return found


# its own figure is what TensorBoard is given; the benchmark decodes as others do, to compare; of pickle, weights take the name of an
# error, and beside tensors NumPy's numbers, as checkpoints hold them
OWN_FILES = {
    "tuning/tensorboard.py": ["Image.open"],
    "bench/data.py": ["Image.open", "Image.open"],
    "mmnet/weights.py": ["pickle", "safe_globals", "safe_globals"],
}


def test_no_file_executes_and_nothing_is_sent():
    found = {str(path.relative_to(ROOT)): offences(path.read_text()) for path in FILES}
    assert {path: names for path, names in found.items() if names != OWN_FILES.get(path, [])} == {}
    assert {"main.py", *MAY} <= {path.partition("/")[0] for path in found}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "from torch import load; load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "from PIL import ImageFile; ImageFile.LOAD_TRUNCATED_IMAGES = True",
        "from PIL import Image; Image.open(path)",
        "from PIL.Image import open; open(path)",
    ],
)
def test_an_offence_is_seen_also_inside_a_function(line):
    assert offences(line) and offences(f"def later():\n    {line}\n")


def test_beside_tensors_weights_may_hold_numbers_of_numpy_only():
    _, (make, _), *kinds = _scalars()
    assert make(np.dtype("f8"), bytes(8)) == 0 and make.__module__.startswith("numpy")
    assert all(issubclass(kind, np.dtype) and kind is not np.dtypes.ObjectDType for kind in kinds)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_a_library_that_asks_torch_for_more_than_tensors_is_refused(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Hostile()}, protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)  # as torchvision's download does; importing mmnet forbids it
    assert capsys.readouterr().out == ""
