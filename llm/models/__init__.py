"""Loading a policy, its log-probs, LoRA adapters, FSDP2."""
