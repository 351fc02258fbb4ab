"""Names of our CNNs' parameters in PyTorch's checkpoints.

Ours have the names of timm or torchvision, layer by layer, so that a table follows from the
parameters themselves; what other authors call them is translated first.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

from ilias_jax.models.checkpoints.names import Kind, Rule
from ilias_jax.models.cnn.convnext import ConvNextConfig
from ilias_jax.models.cnn.densenet import DenseNetConfig
from ilias_jax.models.cnn.efficientnet import EfficientNetConfig
from ilias_jax.models.cnn.resnet import ResNetConfig
from ilias_jax.models.dual_encoder import DualEncoderConfig, ImageConfig
from ilias_jax.models.parameters import parameter_shapes

# A tensor that one of the families has and nothing else, by which a tower is found in a file.
LANDMARKS = (
    r"layer1\.0\.conv1\.weight",
    r"cell_stem_0\.conv_1x1\.conv\.weight",
    r"_?conv_stem\.weight",
    r"features\.0\.(?:conv\.)?weight",
    r"features\.denseblock1\.denselayer1\.conv\.?1\.weight",
    r"s1\.b1\.f\.a\.weight",  # CVNet
    r"stages\.0\.(?:blocks\.)?0\.(?:conv_dw|dwconv)\.weight",
)
# Classifiers, and what trainings keep beside a tower: SwAV's and MoCo's projections, EUPE's; and
# norms of hidden maps, of which the last is there once more.
_BESIDE = re.compile(
    r"^(fc|classifier|last_linear|head\.fc|pre_logits|projection_head|prototypes|projectors|norms)\."
    r"|^power$"
)
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "variance": "running_var",
}


def _block(config: ResNetConfig, match: re.Match[str]) -> str:
    """A block of CVNet's as torchvision has it, which counts from zero."""
    return f"layer{match[1]}.{int(match[2]) - 1}."


# Layers of EfficientNet-PyTorch's blocks, and of those that do not widen the maps.
_SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
_WIDENING = {
    **{"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"},
    **{"bn0": "bn1", "bn1": "bn2", "bn2": "bn3"},
    **_SQUEEZE,
}
_NOT_WIDENING = {"depthwise_conv": "conv_dw", "project_conv": "conv_pw", **_SQUEEZE}


def _numbered(config: EfficientNetConfig, match: re.Match[str]) -> str:
    """A layer of a block of EfficientNet-PyTorch's, where no stage is told from another."""
    number, layer = int(match[1]), match[2]
    for i, stage in enumerate(config.stages):
        if number < stage.depth:
            names = _WIDENING if stage.widening > 1 else _NOT_WIDENING
            return f"blocks.{i}.{number}.{names.get(layer, layer)}."
        number -= stage.depth
    return match[0]


_Spelling = str | Callable[[Any, re.Match[str]], str]
# By the kind of network, what other authors call its layers.
_SPELLINGS: dict[type, tuple[tuple[str, _Spelling], ...]] = {
    DenseNetConfig: ((r"(\.denselayer\d+\.(?:norm|conv))\.(?=\d)", r"\1"),),
    EfficientNetConfig: (
        # EfficientNet-PyTorch
        (r"^_blocks\.(\d{1,3})\._(\w+)\.", _numbered),
        (r"^_bn0\.", "bn1."),
        (r"^_bn1\.", "bn2."),
        (r"^_(?=(?:conv_stem|conv_head|fc)\.)", ""),
    ),
    ConvNextConfig: (
        # its authors, as also DINOv3 and EUPE
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d)\.(?=\d)", r"stages.\1.blocks."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.pwconv(\d)\.", r".mlp.fc\1."),
        (r"^norm\.", "head.norm."),
        (r"^head\.(?=(weight|bias)$)", "head.fc."),
    ),
    ResNetConfig: (
        # CVNet, after pycls
        (r"^stem\.conv\.(?=weight)", "conv1."),
        (r"^stem\.bn\.", "bn1."),
        (r"^s(\d)\.b(\d+)\.", _block),
        (r"^(layer\d\.\d+\.)f\.a\.", r"\1conv1."),
        (r"^(layer\d\.\d+\.)f\.a_bn\.", r"\1bn1."),
        (r"^(layer\d\.\d+\.)f\.b\.", r"\1conv2."),
        (r"^(layer\d\.\d+\.)f\.b_bn\.", r"\1bn2."),
        (r"^(layer\d\.\d+\.)f\.c\.", r"\1conv3."),
        (r"^(layer\d\.\d+\.)f\.c_bn\.", r"\1bn3."),
        (r"^(layer\d\.\d+\.)proj\.", r"\1downsample.0."),
        (r"^(layer\d\.\d+\.)bn\.", r"\1downsample.1."),
        (r"^(head\.pool|gem)\.p$", "power"),
        (r"^(head\.fc|last_linear)\.", "fc."),  # RS@k's, after pretrainedmodels
    ),
}


def respelled(name: str, config: ImageConfig) -> str:
    """Our spelling of an image tower's name in a file, which is most often timm's."""
    for pattern, spelling in _SPELLINGS.get(type(config), ()):
        given = spelling if isinstance(spelling, str) else functools.partial(spelling, config)
        name = re.sub(pattern, given, name)
    return name


def is_beside(name: str) -> bool:
    """Whether a respelled name that the table has not is no part of the tower."""
    return _BESIDE.search(name) is not None


def cnn_rules(config: ImageConfig, prefix: str) -> list[Rule]:
    """The table of a CNN: a tensor of theirs for each of ours, under our names for its layer.

    `prefix` is what precedes them in the file; open_clip's own last layer has no bias.
    """
    rules = []
    for path, shape in parameter_shapes(DualEncoderConfig(config), "image").items():
        layer, _, leaf = path.removeprefix("image.").rpartition(".")
        name = _LEAVES.get(leaf, leaf)
        kind: Kind = "vector"
        if leaf == "kernel":
            kind = "convolution" if len(shape) == 4 else "dense"
        elif len(shape) > 1:
            kind = "same"
        keys = (f"{layer}.{name}" if layer else name,)
        has_none = prefix == "visual.trunk." and path == "image.head.fc.bias"
        rules.append(Rule(() if has_none else keys, (path,), kind))
    return rules
