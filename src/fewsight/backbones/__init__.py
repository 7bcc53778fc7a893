"""Images -> features."""
