"""What runs achieved, as a page, as Markdown and as a table: read from their folders, without torch."""
