"""A name becomes a backbone: families, timm's models, weights, and where their layers lie."""
