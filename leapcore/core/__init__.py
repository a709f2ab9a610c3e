"""What the project exists for: layer features, difficulty schedulers, alignment and the FLOPs ledger.

Nothing here knows the training engine, the plugin system or a model zoo.
"""
