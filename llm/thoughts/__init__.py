"""The thought MDP: a language model as a simulator."""
