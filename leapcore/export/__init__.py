"""A student for others: as timm, ONNX and torch.export load it, with its model card."""
