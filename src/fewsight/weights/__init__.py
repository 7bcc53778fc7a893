"""The bundled weights, each with a card."""
