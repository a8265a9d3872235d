import os

import pytest

from elu_zoo.files import replacing
from elu_zoo.reports import write_csv


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path, monkeypatch, umask, mode):
    path = tmp_path / "a"
    before = os.umask(umask)
    try:
        # To ask for the umask is to change it for a moment, for all threads.
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            with replacing(path) as part:
                part.write_text("new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and path.read_text() == "new"


def test_a_table_takes_names_of_files_that_are_no_text(tmp_path):
    write_csv(tmp_path / "a.csv", [{"file": os.fsdecode(b"\xe9.png"), "class": "猫"}])
    assert (tmp_path / "a.csv").read_text("utf-8") == "file,class\n\\udce9.png,猫\n"
