"""What is done to a finished model: evaluate, export, embed."""
