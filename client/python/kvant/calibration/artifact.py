"""The artifact: a safetensors file, the same bytes for the same model and text."""

import json

import torch

VERSION = 1
_METADATA = "kvant"  # one entry: safetensors writes several in any order, and the file's hash is part of a store's identity


def image(tensors, about):
    """The artifact's bytes: tensors (f64 becomes f32) and `about`, a dict that says where they come from."""
    from safetensors.torch import save as image_of

    narrow = {name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous() for name, tensor in tensors.items()}
    for name, tensor in narrow.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"calibrate: {name} is not finite; the model's rows are not, or the text is too short")
    return image_of(narrow, {_METADATA: json.dumps({"artifact_version": VERSION, **about}, sort_keys=True)})


def save(tensors, about, path):
    """Writes image(tensors, about)."""
    with open(path, "wb") as file:
        file.write(image(tensors, about))


def describe(path):
    """What an artifact holds, as a dict: where it comes from (None if another program made it), and of each kind of tensor the layers,
    the shape and the range of its numbers."""
    from safetensors import safe_open

    kinds = {}
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get(_METADATA, "null"))
        for name in file.keys():  # noqa: SIM118, no iterator
            tensor = file.get_tensor(name).float()
            _, _, rest = name.partition(".")
            layer, _, what = rest.partition(".")
            kind = kinds.setdefault(what or name, {"layers": 0, "shape": list(tensor.shape), "least": float("inf"), "most": float("-inf")})
            kind["layers"] += layer.isdigit()
            kind["least"] = min(kind["least"], float(tensor.min()))
            kind["most"] = max(kind["most"], float(tensor.max()))
    return {"artifact": str(path), "about": about, "tensors": dict(sorted(kinds.items()))}
