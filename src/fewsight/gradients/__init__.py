"""Exact gradients in bounded memory."""
