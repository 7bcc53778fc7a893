"""Supports + queries -> scores; one method a file."""
