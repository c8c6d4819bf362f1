"""`python -m cpi.run`: methods and Theorem 1's experiment on the user's own problem."""
