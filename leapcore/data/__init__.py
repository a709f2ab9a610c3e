"""Images: where they come from, how they are viewed, and how they come in batches."""
