import os
import pathlib
import re

from elu_zoo._environment import set_defaults

ROOT = pathlib.Path(__file__).parents[1]


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    set_defaults()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


def test_one_place_sets_the_variables_of_all_commands():
    places = {
        path.relative_to(ROOT).as_posix()
        for folder in ("elu_zoo", "training")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"environ\S*TF_ENABLE_ONEDNN_OPTS", path.read_text())
    }
    assert places == {"elu_zoo/_environment.py"}
