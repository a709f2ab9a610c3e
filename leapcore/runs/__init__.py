"""A run's folder: its files, who may write to it, and reading it without torch."""
