"""Policies: loading, token log-probs, LoRA adapters, sharding by FSDP2."""
