"""Files of CNNs as people have them: whatever is around or beside a tower, it is the same tower."""

import re

import cnn_towers as towers
import numpy as np
import pytest
from cnn_cases import CNNS

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.torch_names import from_torch

Arrays = dict[str, np.ndarray]


def loaded(name: str, arrays: Arrays) -> Arrays:
    return from_torch(arrays, towers.architecture(CNNS[name]), "a.pth", "image")


def renamed(arrays: Arrays, *pairs: tuple[str, str]) -> Arrays:
    """With each (pattern, replacement) in the names, in order."""
    names = {key: key for key in arrays}
    for pattern, replacement in pairs:
        names = {key: re.sub(pattern, replacement, name) for key, name in names.items()}
    assert len(set(names.values())) == len(arrays)
    return {names[key]: value for key, value in arrays.items()}


def prefixed(arrays: Arrays, prefix: str) -> Arrays:
    return {prefix + key: value for key, value in arrays.items()}


def some(*names: str) -> Arrays:
    return {name: np.ones((2, 2), np.float32) for name in names}


RESNET, CONVNEXT, CLIP_NEXT = "resnet50_reduced", "convnext_b_reduced", "convnext_l_clip_reduced"
_META = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"\.blocks\.", "."),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc(\d)", r"pwconv\1"),
    (r"^head\.norm\.", "norm."),
)
# (stage, block) of the reduced EfficientNet's blocks, which EfficientNet-PyTorch numbers through.
_BLOCKS = ((0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0))
_EFFICIENT = (
    *((rf"^blocks\.{s}\.{i}\.", f"_blocks.{number}.") for number, (s, i) in enumerate(_BLOCKS)),
    (r"^_blocks\.0\.(?=bn)", "_blocks.0._"),
    (r"^_blocks\.0\.conv_pw\.", "_blocks.0._project_conv."),
    *((rf"(^|\.)bn{i + 1}\.", rf"\1_bn{i}.") for i in range(3)),
    (r"\.conv_dw\.", "._depthwise_conv."),
    (r"\.conv_pw\.", "._expand_conv."),
    (r"\.conv_pwl\.", "._project_conv."),
    (r"\.se\.conv_", "._se_"),
    (r"^conv_", "_conv_"),
)
WRITTEN = {
    "classifier": (RESNET, lambda a: a | some("fc.weight", "fc.bias")),
    "SwAV": (
        RESNET,
        lambda a: prefixed(a | some("projection_head.0.weight", "prototypes.weight"), "module."),
    ),
    "MoCo v3": (
        RESNET,
        lambda a: (
            prefixed(a | some("fc.0.weight", "fc.1.running_mean"), "module.base_encoder.")
            | prefixed(a, "module.momentum_encoder.")
            | some("module.predictor.0.weight")
        ),
    ),
    "pretrainedmodels": (RESNET, lambda a: a | some("last_linear.weight", "last_linear.bias")),
    "ConvNeXt's authors": (
        CONVNEXT,
        lambda a: renamed(a, *_META) | some("head.weight", "head.bias"),
    ),
    "EUPE": (
        CONVNEXT,
        lambda a: renamed(a, *_META) | some("norms.3.weight", "projectors.a.weight"),
    ),
    "torchvision's old DenseNet": (
        "densenet169_reduced",
        lambda a: (
            renamed(a, (r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2"))
            | some("classifier.weight")
        ),
    ),
    "EfficientNet-PyTorch": (
        "efficientnet_reduced",
        lambda a: renamed(a, *_EFFICIENT) | some("_fc.weight", "_fc.bias"),
    ),
    "CVNet": (
        "cvnet_resnet50_reduced",
        lambda a: a | renamed(a, ("encoder_q", "encoder_k")) | some("queue", "queue_ptr"),
    ),
    "CVNet without prefix": (
        "superglobal_resnet50_reduced",
        lambda a: renamed(a, (r"^encoder_q\.", "")),
    ),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_a_file_as_its_authors_wrote_it_is_the_tower(written: str) -> None:
    name, write = WRITTEN[written]
    arrays = towers.arrays(CNNS[name])
    expected, found = loaded(name, arrays), loaded(name, write(arrays))
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)


def test_open_clips_head_has_no_last_bias() -> None:
    arrays = towers.arrays(CNNS[CLIP_NEXT])
    own = renamed(
        {key: value for key, value in arrays.items() if key != "head.fc.bias"},
        (r"^(?!head\.(fc|pre))", "visual.trunk."),
        (r"^head\.pre_logits\.fc\.", "visual.head.mlp.fc1."),
        (r"^head\.fc\.", "visual.head.mlp.fc2."),
    )
    expected, found = loaded(CLIP_NEXT, arrays), loaded(CLIP_NEXT, own)
    assert not found.pop("image.head.fc.bias").any() and expected.pop("image.head.fc.bias").any()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)
    one = renamed(own, (r"head\.mlp\.fc2", "head.proj"))
    np.testing.assert_array_equal(
        loaded(CLIP_NEXT, one)["image.head.fc.kernel"], expected["image.head.fc.kernel"]
    )


def test_all_differences_are_named_together() -> None:
    arrays = towers.arrays(CNNS[RESNET])
    del arrays["layer1.0.bn1.running_var"], arrays["layer2.0.downsample.0.weight"]
    arrays["layer3.0.bn2.bias"] = arrays["layer3.0.bn2.bias"][:5]
    arrays["layer1.0.conv4.weight"] = np.ones((2, 2), np.float32)
    with pytest.raises(UserError) as error:
        loaded(RESNET, arrays)
    message = str(error.value)
    assert "a.pth does not fit the model; 4 differences" in message
    for part in (
        "unmapped key: layer1.0.conv4.weight",
        "unfilled parameter: layer1.0.bn1.running_var of shape (64,)",
        "unfilled parameter: layer2.0.downsample.0.weight of shape (512, 256, 1, 1)",
        "wrong shape: layer3.0.bn2.bias is (5,), expected (256,)",
    ):
        assert part in message


def test_files_of_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match="does not fit the model"):
        loaded(RESNET, towers.arrays(CNNS[CONVNEXT]))
    with pytest.raises(UserError, match="a.pth has names of no known model"):
        loaded(RESNET, some("a.weight", "b.weight"))
