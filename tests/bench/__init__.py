"""`make bench`: the tabular solvers beside quantecon and pymdptoolbox, and their growth with S.

problems   the MDPs, and which contestants are too slow on them to be repeated
contest    the same questions put to each library in turn, timed
growth     one MDP of a family in a process of its own: seconds, memory, residual
alone      runs a module in such a process, up to a time limit
"""

import os

# For all contestants alike, and before numpy loads: a BLAS thread that waits goes to sleep instead
# of spinning. On busy cores, spinning made two threads up to ten times slower than one.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
