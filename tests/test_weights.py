import pytest
from publishing import CONTENT, Zoo, record_of

from elu_zoo import weights
from elu_zoo.architectures import reconstructs
from elu_zoo.errors import UserError


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return Zoo(tmp_path, monkeypatch)


def test_names(zoo, monkeypatch):
    names = ["elunet11.b", "elunet11.a", "mnist_classifier.mnist"]
    zoo.publish({name: record_of(CONTENT) for name in names})
    assert weights.list_weights() == sorted(names)
    assert weights.list_weights("ELUNet11") == ["elunet11.a", "elunet11.b"]
    assert weights.list_weights("MNISTClassifier") == ["mnist_classifier.mnist"]
    assert weights.get_record("elunet11.a").name == "elunet11.a"
    with pytest.raises(ValueError, match="elunet11.a.*Received: 'elunet11.c'"):
        weights.get_record("elunet11.c")
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(zoo.folder / "none.json"))
    with pytest.raises(FileNotFoundError, match="none.json"):
        weights.list_weights()


def test_the_manifest_of_this_repository(monkeypatch):
    monkeypatch.delenv("ELU_ZOO_MANIFEST", raising=False)
    for name in weights.list_weights():
        record = weights.get_record(name)
        assert record.file == f"{name}-{record.sha256[:8]}.weights.h5"
        names = 0 if reconstructs(record.model) else record.arguments["classes"]
        assert len(record.class_names) == names
        assert record.packaged == (record.bytes <= 20e6)
        assert record.temperature > 0


@pytest.mark.parametrize(
    "text, meant",
    [
        ("elunet11.cifar100", "elunet11.cifar100"),
        ("cifar100", "elunet11.cifar100"),
        ("ELUNet11.CIFAR100", "elunet11.cifar100"),
        ("elunet15", "elunet15.tiny_imagenet"),
        ("TinyImageNet", "elunet15.tiny_imagenet"),
    ],
)
def test_names_that_are_understood(zoo, text, meant):
    names = ["elunet11.cifar100", "elunet15.tiny_imagenet", "elunet11.other"]
    zoo.publish({name: record_of(CONTENT) for name in names})
    assert weights.find_weights(text) == meant


@pytest.mark.parametrize(
    "text, message",
    [
        ("elunet11.cifar10", "Did you mean elunet11.cifar100"),
        ("tiny_imagnet", "Did you mean elunet15.tiny_imagenet"),
        ("elunet11", "one name of .*elunet11.cifar100.*elunet11.other"),
        ("resnet50", "one of .*elunet11.cifar100"),
    ],
)
def test_names_that_are_not(zoo, text, message):
    names = ["elunet11.cifar100", "elunet15.tiny_imagenet", "elunet11.other"]
    zoo.publish({name: record_of(CONTENT) for name in names})
    with pytest.raises(UserError, match=message):
        weights.find_weights(text)


def test_a_manifest_that_begins_with_a_byte_order_mark(zoo):
    path = zoo.folder / "manifest.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert weights.list_weights() == ["net.small"]
    for content in ("{", "[]", '{"weights": []}'):
        path.write_text(content)
        with pytest.raises(UserError, match="manifest.json to be a manifest"):
            weights.list_weights()


def test_no_other_package_is_taken_for_the_checkout(tmp_path, monkeypatch):
    """`site-packages/pretrained` is nobody's."""
    monkeypatch.setattr(weights, "_PACKAGE", tmp_path / "elu_zoo")
    assert weights.folders() == [tmp_path / "elu_zoo/pretrained"]
