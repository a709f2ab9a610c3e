"""What can be plugged in: hooks, events, registries, and the loader that finds them."""
