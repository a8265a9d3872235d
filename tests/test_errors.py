import pickle

from elu_zoo.errors import ImageError, UserError


def test_image_errors_are_user_errors_and_keep_their_path_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("Expected an image.", "a.png")))
    assert isinstance(error, UserError) and isinstance(error, ValueError)
    assert str(error) == "Expected an image." and error.path == "a.png"
