"""placeholder, replaced when the public names exist."""
