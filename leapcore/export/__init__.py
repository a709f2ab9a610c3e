"""A student for others: as timm, ONNX and TorchScript load it, with its model card."""
