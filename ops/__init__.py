"""What operates and measures a region."""
