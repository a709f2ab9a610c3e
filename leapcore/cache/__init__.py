"""What the teachers computed, kept for views that come again (docs/cache.md)."""
