"""What codecs lose in each layer, KV head and side, and bits for each. Rows become an artifact's other tensors in kvantctl
(tools/kvantctl/calibration); quantizers/codecs/README.md lists them and the codecs that read them."""
