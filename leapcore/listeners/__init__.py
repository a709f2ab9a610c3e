"""Listeners of a run's events: the terminal, the folder's files, and the trackers that a spec names."""
