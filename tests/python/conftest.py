import pathlib

import pytest
from kvantd_process import Kvantd

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def byte6m():
    """The small real model of the tree."""
    return ROOT / "tests" / "models" / "byte6m"


@pytest.fixture(scope="session")
def prompt():
    """Some 1500 tokens of a text that the model knows how to go on with."""
    return (ROOT / "client" / "sequence.cc").read_text(encoding="utf-8")[:1500]


@pytest.fixture(scope="module")
def engine(byte6m):
    """byte6m in mlx_lm, in f32: (model, tokenizer). Unpatched at the end of each module."""
    mx = pytest.importorskip("mlx.core")
    import kvant.mlx_lm
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(byte6m))
    model.set_dtype(mx.float32)
    yield model, tokenizer
    kvant.mlx_lm.unpatch_mlx_lm(model)


@pytest.fixture
def daemon():
    """A Kvantd that runs."""
    with Kvantd() as daemon:
        yield daemon


@pytest.fixture
def kvantd(daemon):
    """A daemon's socket."""
    return daemon.socket


@pytest.fixture
def kvantd_small():
    """Socket of a daemon whose budget holds some hundred blocks of 100 KiB."""
    with Kvantd("24MiB") as daemon:
        yield daemon.socket
