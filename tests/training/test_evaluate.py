from types import SimpleNamespace

import pytest

from training import evaluate
from training.data import sources
from training.engine import run


def test_names_are_resolved_as_in_elu_zoo(tmp_path, monkeypatch):
    """Weights first; a folder of their name is written "./NAME"."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elunet11.cifar100").mkdir()
    monkeypatch.setattr(sources, "load", lambda name, *more: name)

    class Opened(Exception):
        pass

    def load_run(folder):
        raise Opened(folder)

    monkeypatch.setattr(run, "load_run", load_run)

    def load(source):
        arguments = {"split": "test", "data": "x", "weights": "last"}
        return evaluate._load(SimpleNamespace(source=source, **arguments))

    for name in ("elunet11.cifar100", "ELUNet11.cifar100"):
        assert load(name)[1:] == ("cifar100", "cifar100")
    with pytest.raises(Opened):
        load("./elunet11.cifar100")
