"""Federated text classification in JAX, measured by the client that a model leaves behind."""
