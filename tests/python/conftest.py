import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def byte6m():
    """The small real model of the tree."""
    return ROOT / "tests" / "models" / "byte6m"


@pytest.fixture(scope="session")
def prompt():
    """Some 1500 tokens of a text that the model knows how to go on with."""
    return (ROOT / "client" / "sequence.cc").read_text(encoding="utf-8")[:1500]
