"""Files of CNNs trained for retrieval, and of CLIP's ResNet beside its text tower."""

import cnn_towers as towers
import numpy as np
import pytest
import small_clip as clip
from cnn_cases import CNNS
from torch_written import to_torch

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints import torch_names
from ilias_jax.models.checkpoints.torch_names import from_torch, names_of
from ilias_jax.models.dual_encoder import DualEncoderConfig

Arrays = dict[str, np.ndarray]
RECALL, CVNET, CLIP = (
    f"{name}_reduced" for name in ("recall_resnet50", "cvnet_resnet50", "clip_rn50")
)
TEXT = dict(to_torch(clip.parameters(0), clip.CONFIG, "text", torch_names.CLIP))
BOTH = DualEncoderConfig(towers.architecture(CNNS[CLIP]).image, clip.CONFIG.text)


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)


def loaded(name: str, arrays: Arrays) -> Arrays:
    return from_torch(arrays, towers.architecture(CNNS[name]), "a.pth", "image")


@pytest.mark.parametrize("prefix", ["state_dict.", "state_dict.module.", "module."])
def test_the_power_of_a_pooling_beside_a_trained_model_is_read(prefix):
    """RS@k's training has it beside the network, in dictionaries of any depth."""
    arrays = towers.arrays(CNNS[RECALL])
    assert "gem.p" in arrays and "model.conv1.weight" in arrays
    wrapped = {f"{prefix}{name}": value for name, value in arrays.items()}
    assert_same(loaded(RECALL, wrapped), loaded(RECALL, arrays))


def test_a_reranker_and_a_second_encoder_are_left_out():
    """What CVNet's file has beside its encoder."""
    arrays = towers.arrays(CNNS[CVNET])
    second = {name.replace("encoder_q", "encoder_k"): value for name, value in arrays.items()}
    other = ("queue", "conv2ds.0.weight", "cv_learner.block1.0.weight")
    state = second | arrays | {name: np.ones((2, 2), np.float32) for name in other}
    whole = {f"model_state.{name}": value for name, value in state.items()}
    assert_same(loaded(CVNET, whole), loaded(CVNET, arrays))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_clips_resnet_and_its_text_tower_come_from_one_file(dtype):
    """open_clip's, or OpenAI's own, which has three numbers more."""
    image = {key: value.astype(dtype) for key, value in towers.arrays(CNNS[CLIP]).items()}
    numbers = ("input_resolution", "context_length", "vocab_size")
    arrays = TEXT | image | {name: np.array(7, np.int64) for name in numbers}
    both = from_torch(arrays | {"logit_scale": np.array(4.6, np.float32)}, BOTH, "RN50.pt")
    alone = from_torch(image, BOTH, "RN50.pt", "image") | from_torch(arrays, BOTH, "b", "text")
    assert_same(both, alone)


def test_clips_resnet_is_told_from_clips_transformer():
    """Both begin with a convolution of one name."""
    transformer = dict(to_torch(clip.parameters(0), clip.CONFIG, "image", torch_names.CLIP))
    resnet = towers.arrays(CNNS[CLIP])
    assert "visual.conv1.weight" in transformer.keys() & resnet.keys()
    assert (names_of(transformer).image, names_of(resnet).image) == ("clip", "cnn")
    for config, arrays in ((clip.CONFIG, resnet), (BOTH, transformer)):
        with pytest.raises(UserError, match="belongs to another family of models"):
            from_torch(arrays, config, "a.pt", "image")
