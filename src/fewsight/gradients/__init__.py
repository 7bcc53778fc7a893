"""Exact gradients of losses that need more images than fit a graph, and an unbiased estimate of them."""
