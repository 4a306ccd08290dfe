"""Logs and metrics: the only doors to structlog and prometheus."""
