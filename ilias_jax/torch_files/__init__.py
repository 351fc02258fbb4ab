"""PyTorch's files of tensors (`.pth`), read without PyTorch and without running what they say."""

from ilias_jax.torch_files.read import read_nested, read_tensors

__all__ = ["read_nested", "read_tensors"]
