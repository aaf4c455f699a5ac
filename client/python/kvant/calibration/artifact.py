"""The artifact: a safetensors file, the same bytes for the same model and text."""

import json

import torch

VERSION = 1
_METADATA = "kvant"  # one entry: safetensors writes several in any order, and the file's hash is part of a store's identity


def image(tensors, about):
    """The artifact's bytes: tensors (f64 becomes f32) and `about`, a dict that says where they come from."""
    from safetensors.torch import save as image_of

    narrow = {name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous() for name, tensor in tensors.items()}
    return image_of(narrow, {_METADATA: json.dumps({"artifact_version": VERSION, **about}, sort_keys=True)})


def load(path):
    """(tensors, about) of an artifact."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118, no iterator
