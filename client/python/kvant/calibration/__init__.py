"""What codecs are calibrated on: statistics of the queries, keys and values that a model computes of a text, and the tensors made of
them. Wants torch, and scipy for codebooks; quantizers/codecs/README.md lists the tensors and the codecs that read them."""
