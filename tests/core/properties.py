"""What the property tests share: the same few examples on every machine, whatever its speed."""

from hypothesis import settings

quick = settings(deadline=None, max_examples=40, derandomize=True, database=None)
