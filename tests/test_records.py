import pytest
from publishing import CONTENT, Zoo, record_of

from elu_zoo import records


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return Zoo(tmp_path, monkeypatch)


def test_names(zoo, monkeypatch):
    names = ["elunet11.b", "elunet11.a", "mnist_classifier.mnist"]
    zoo.publish({name: record_of(CONTENT) for name in names})
    assert records.list_weights() == sorted(names)
    assert records.list_weights("ELUNet11") == ["elunet11.a", "elunet11.b"]
    assert records.list_weights("MNISTClassifier") == ["mnist_classifier.mnist"]
    assert records.get_record("elunet11.a")["name"] == "elunet11.a"
    with pytest.raises(ValueError, match="elunet11.a.*Received: 'elunet11.c'"):
        records.get_record("elunet11.c")
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(zoo.folder / "none.json"))
    with pytest.raises(FileNotFoundError, match="none.json"):
        records.list_weights()


def test_the_manifest_of_this_repository(monkeypatch):
    monkeypatch.delenv("ELU_ZOO_MANIFEST", raising=False)
    for name in records.list_weights():
        record = records.get_record(name)
        assert record["file"] == f"{name}-{record['sha256'][:8]}.weights.h5"
        assert len(record["class_names"]) == record["arguments"]["classes"]
