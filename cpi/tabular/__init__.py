"""The tabular world: simulator, policy gradients and their exact moments, a learner."""
