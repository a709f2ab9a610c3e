"""Listeners of a run's events: the terminal, TensorBoard and a file, all written like anyone's plugin."""
