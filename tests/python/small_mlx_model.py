"""A Llama of random weights in mlx_lm, small enough to compute anything with."""

import mlx.core as mx
from mlx_lm.models import llama

LAYERS = 3


def small(**fields):
    """A model of random weights, the same for the same arguments."""
    mx.random.seed(5)
    arguments = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": LAYERS, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5, "vocab_size": 64, "rope_theta": 10000.0,
    }  # fmt: skip
    model = llama.Model(llama.ModelArgs(**{**arguments, **fields}))
    mx.eval(model.parameters())
    return model


def ids(count, start=1):
    return mx.array([[(start + 7 * i) % 64 for i in range(count)]])
