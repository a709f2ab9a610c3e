"""A run as others see it while it is at work, from its files."""
