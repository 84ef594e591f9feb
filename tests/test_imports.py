"""The rooms import in one direction (the table in ARCHITECTURE.md), wherever in a file the import stands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mmnet.config import Config
from study.command_line import prepare

ROOT = Path(__file__).resolve().parents[1]
# room -> what it may import of other rooms: a whole room, or one module of it
MAY = {
    "data": set(),
    "mmnet": {"data"},
    "study": {"data", "mmnet"},
    "search_spaces": {"mmnet.config", "data.errors"},
    "tuning": {"data", "mmnet", "study", "search_spaces"},
    "analysis": {"data", "mmnet", "study"},
}
NEVER = {
    "data": {"ray", "optuna"},
    "mmnet": {"ray", "optuna", "pandas"},
    "study": {"ray", "optuna", "pandas"},
    "search_spaces": {"ray", "optuna", "pandas"},
    "tuning": set(),
    "analysis": {"ray"},
}
OURS = {*MAY, "tests", *(path.stem for path in ROOT.glob("*.py"))}
FILES = sorted(path for room in MAY for path in (ROOT / room).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Every module that a source imports, by statement at any depth or by `import_module`; `a.b` for `from a import b`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: its target cannot be read off the line"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            names.add(ast.unparse(node.args[0]).lstrip("f").strip("'\""))
    return names


def forbidden(room: str, names: set[str]) -> set[str]:
    def allowed(name: str) -> bool:
        top = name.partition(".")[0]
        if top in OURS:
            return any(f"{name}.".startswith(f"{place}.") for place in {room, *MAY[room]})
        return top not in NEVER[room]

    return {name for name in names if not allowed(name)}


def test_imports_point_up_the_table_only():
    found = {str(path.relative_to(ROOT)): forbidden(path.relative_to(ROOT).parts[0], imported(path.read_text())) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_room_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY)
    assert len(FILES) > 40


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("data", "from mmnet.config import Config"),
        ("mmnet", "import pandas as pd"),
        ("mmnet", "from tuning import study"),
        ("mmnet", "import ray.tune"),
        ("mmnet", "from study.records import read_trials"),
        ("mmnet", "import main"),
        ("search_spaces", "from mmnet.network import Head"),
        ("search_spaces", "from mmnet import config, network"),
        ("search_spaces", "from data.errorstore import x"),
        ("search_spaces", "import optuna"),
        ("tuning", "from analysis.leaderboard import rank"),
        ("analysis", "from ray import tune"),
        ("analysis", "import importlib; importlib.import_module('tuning.study')"),
        ("analysis", "import importlib; importlib.import_module(f'search_spaces.{name}')"),
    ],
)
def test_a_wrong_import_is_seen_also_inside_a_function(room, line):
    assert forbidden(room, imported(line))
    assert forbidden(room, imported(f"def later():\n    {line}\n"))


def test_data_and_mmnet_import_where_ray_and_optuna_are_not_installed():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.relative_to(ROOT).parts[0] in ("data", "mmnet")
    ]
    absent = "import sys\nfor name in ('ray', 'optuna'): sys.modules[name] = None\n"
    lines = "".join(f"import {name.removesuffix('.__init__')}\n" for name in modules)
    done = subprocess.run([sys.executable, "-c", absent + lines], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WORKER = """
import sys
import tuning.trainable
from tests.mmnet.tiny import feature_dataset, tiny_config, train
train(tiny_config({"model.frozen": True, "optim.epochs": 1, "augment.mixup": 0.2, "augment.feature_noise": 0.1}), feature_dataset())
print(*sys.modules)
"""
# what only the driver, the analysis or a trained backbone needs: each costs every worker memory and its start time
HEAVY = {"torch._dynamo", "sympy", "scipy", "sklearn", "timm", "torchvision", "optuna", "matplotlib", "tensorboard", "search_spaces", "analysis"}
OF_OPTIMIZERS = {"torch._dynamo", "sympy"}  # torch's own import them when they are made


def test_a_worker_of_a_frozen_study_imports_nothing_heavy_that_it_does_not_use():
    done = subprocess.run([sys.executable, "-c", WORKER], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert {"ray.tune", "torch"} <= modules and (HEAVY - OF_OPTIMIZERS) & modules == set()


DRIVER = """
import contextlib, os, sys
import tuning.cluster, tune_mmnet

class Connected:
    def result(self):  # here the driver waits for Ray, and then starts the workers
        print(*sys.modules, flush=True)
        os._exit(0)

tuning.cluster.joining = lambda address: contextlib.nullcontext(Connected())
tune_mmnet.main()
"""


def test_a_search_with_cached_features_comes_to_its_workers_without_what_only_they_or_the_analysis_need(synthetic_root, tmp_path):
    named = {"model.backbone": "tiny", "model.weights": None, "model.frozen": True, "data.image_size": 32, "data.folds": 2}
    prepare(Config().with_values(named), str(synthetic_root), Console(quiet=True), "cpu")
    flags = ["--frozen", "--backbone", "tiny", "--weights", "none", "--image-size", "32", "--folds", "2", "--data", str(synthetic_root)]
    command = [sys.executable, "-c", DRIVER, *flags, "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"ray.tune", "optuna"} <= imported
    splitting = {"scipy", "sklearn"}  # a new study deals its patients
    assert (HEAVY - {"optuna", "tensorboard", "search_spaces"} - splitting | {"torch", "sqlalchemy", "alembic"}) & imported == set()


def test_a_search_is_planned_without_heavy_libraries_so_that_ray_starts_at_once():
    planned = "import sys, study.folder, search_spaces, tuning.cluster, tuning.settings; search_spaces.get_space('full', study.folder.Config())"
    done = subprocess.run([sys.executable, "-c", f"{planned}; print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (HEAVY - {"search_spaces"} | {"torch", "ray"}) & set(done.stdout.split()) == set()
