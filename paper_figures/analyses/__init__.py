"""Measurements for the figures."""
