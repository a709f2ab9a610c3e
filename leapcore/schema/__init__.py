"""What a spec may hold: as a JSON schema for editors, and as a page for people."""
