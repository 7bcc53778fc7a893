"""Whole runs as YAML files."""
