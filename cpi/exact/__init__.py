"""Exact quantities of finite MDPs: values, occupancy, optimal policies, updates."""
