"""Shared fixtures: one cache of decoded images, two small synthetic BreakHis, and the real tiles and file list where they are."""

import csv
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from data.sources import breakhis_row
from data.store import load_dataset
from data.synthetic import generate
from data.table import build_table

BREAKHIS = Path(__file__).resolve().parents[2] / "shared" / "breakhis"


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def pytest_addoption(parser):
    parser.addoption("--minutes", type=float, metavar="N", help="leave out, and name, what has not begun after so many minutes")


def pytest_configure(config):
    """All tests of a run, in all its processes, decode into one cache, whatever the machine has."""
    if hasattr(config, "workerinput"):
        return
    cache = tempfile.mkdtemp(prefix="mmnet-tests-")
    os.environ |= {"MMNET_CACHE": cache, "MMNET_TESTS_BEGAN": str(time.time())}
    os.environ.pop("BREAKHIS_ROOT", None)
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests of one file share its fixtures, so they run in one process; what starts Ray and what takes long begins first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    first = ["nodes", "ray", "commands"]
    items.sort(key=lambda item: next((place for place, name in enumerate(first) if name in group(item)), len(first)))


def group(item) -> tuple[str, ...]:
    return item.get_closest_marker("xdist_group").args


def pytest_runtest_setup(item):
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.time() - float(os.environ["MMNET_TESTS_BEGAN"]) > 60 * minutes:
        pytest.skip(f"left out: {minutes:g} minutes were over")


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """An empty cache, of this test alone."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMNET_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of 16 patients, 2 images of 32 px a magnification and slide folder, for commands. Read only: tests share it."""
    return generate(tmp_path_factory.mktemp("data"), patients=16, images=2, size=32, seed=0)


@pytest.fixture(scope="session")
def run():
    """A function of a command's words that runs it in this process; see `tests.verbs`."""
    from tests.verbs import run_here

    return run_here


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory):
    """12 patients, 3 images of 40 px a magnification and slide folder. Read only: tests share it."""
    return generate(tmp_path_factory.mktemp("synthetic"), patients=12, images=3, size=40, seed=0)


@pytest.fixture(scope="session")
def synthetic_dataset(synthetic_root):
    """`synthetic_root`, decoded once at 32 px."""
    return load_dataset(synthetic_root, 32)


@pytest.fixture(scope="session")
def real_tiles():
    """The folder of 610 real 200X tiles of 35 slide folders."""
    return _present(BREAKHIS / "real_200x")


@pytest.fixture(scope="session")
def real_dataset(real_tiles):
    """The real tiles, decoded once at 64 px."""
    return load_dataset(real_tiles, 64)


@pytest.fixture(scope="session")
def real_files():
    """One record a real image: file, fold1 … fold5 (train or test)."""
    with _present(BREAKHIS / "files.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def real_table(real_files):
    """The patient table of the whole BreakHis, from its file names."""
    return build_table([breakhis_row(record["file"]) for record in real_files])
