"""A batch -> a loss; one method a file."""
