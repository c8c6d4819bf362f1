"""Rows, masks, losses and optimizer steps."""
