"""A run's folder: its files, who may write to it, and how far it is, read without torch."""
