"""A real study, trained once."""

import shutil

import pytest

from tests.analysis.studies import make_study


@pytest.fixture(scope="session")
def trained_study(tmp_path_factory):
    """See `make_study`. Read only: tests share it."""
    return make_study(tmp_path_factory.mktemp("studies") / "tiny")


@pytest.fixture
def study(trained_study, tmp_path):
    """A copy of `trained_study` to write in."""
    return shutil.copytree(trained_study, tmp_path / "tiny")
