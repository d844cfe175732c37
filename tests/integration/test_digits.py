"""The demo's models are real, different, and made only once."""

import numpy as np
import onnx
import pytest

from consistency_service.testbed import digits


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return digits.make_digits(tmp_path_factory.mktemp("digits"))


def test_versions_are_as_good_and_as_bad_as_they_are_meant_to_be_on_images_none_has_seen(made):
    images, labels = digits.load_held_out(made.held_out)
    accuracy = {
        model.version: float(np.mean(digits.classify(digits.load_onnx(model.path), images) == labels))
        for model in made.models
    }

    assert accuracy == {model.version: model.accuracy for model in made.models}
    assert ["1.0.0", "2.0.0", "3.0.0", "4.0.0"] == list(accuracy)
    assert 0.8 <= accuracy["1.0.0"] <= 0.9
    assert accuracy["2.0.0"] >= 0.97
    assert 0.5 <= accuracy["3.0.0"] <= 0.8
    assert accuracy["4.0.0"] >= accuracy["2.0.0"]
    assert images.dtype == np.float32 and images.shape == (500, 64)


def test_all_graphs_are_valid_onnx_with_one_signature(made):
    for model in made.models:
        onnx.checker.check_model(onnx.load(model.path), full_check=True)
        session = digits.load_onnx(model.path.read_bytes())
        (entry,), (exit_,) = session.get_inputs(), session.get_outputs()
        assert (entry.name, entry.type, entry.shape) == ("images", "tensor(float)", ["N", 64])
        assert (exit_.name, exit_.type, exit_.shape) == ("labels", "tensor(int64)", ["N"])
        assert session.get_session_options().intra_op_num_threads == 1
        assert digits.classify(session, np.zeros((1, 64), dtype=np.float32)).shape == (1,)


def test_training_again_gives_the_same_bytes_and_whole_files_are_not_trained_again(made, tmp_path):
    again = digits.make_digits(tmp_path)

    assert [model.digest for model in again.models] == [model.digest for model in made.models]

    written_at = again.strong.path.stat().st_mtime_ns
    assert digits.make_digits(tmp_path) == again
    assert again.strong.path.stat().st_mtime_ns == written_at

    again.strong.path.write_bytes(b"damaged")
    assert digits.make_digits(tmp_path) == again
    assert digits._digest(again.strong.path.read_bytes()) == made.strong.digest
