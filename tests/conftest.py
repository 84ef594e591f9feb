"""Shared fixtures: an own cache for every test, a tiny synthetic BreakHis, and the real tiles and file list where they are."""

import csv
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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Every test decodes into an empty cache of its own, whatever the machine has."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMNET_CACHE", str(cache))
    monkeypatch.delenv("BREAKHIS_ROOT", raising=False)
    return cache


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory):
    """12 cases, 3 images of 40 px a magnification and slide folder. Read only: tests share it."""
    return generate(tmp_path_factory.mktemp("synthetic"), cases=12, images=3, size=40, seed=0)


@pytest.fixture(scope="session")
def synthetic_dataset(synthetic_root, tmp_path_factory):
    """`synthetic_root`, decoded once at 32 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMNET_CACHE", str(tmp_path_factory.mktemp("synthetic_cache")))
        return load_dataset(synthetic_root, 32)


@pytest.fixture(scope="session")
def real_tiles():
    """The folder of 610 real 200X tiles of 35 slide folders."""
    return _present(BREAKHIS / "real_200x")


@pytest.fixture(scope="session")
def real_dataset(real_tiles, tmp_path_factory):
    """The real tiles, decoded once at 64 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMNET_CACHE", str(tmp_path_factory.mktemp("real_cache")))
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
