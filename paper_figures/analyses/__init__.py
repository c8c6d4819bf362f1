"""Measurements that figures are drawn from."""
