"""The abstractions that both worlds share: prefixes, episodes, reset rules, plans, advantages."""
