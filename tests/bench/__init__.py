"""`make bench`: the tabular solvers beside quantecon and pymdptoolbox, and their growth with S.

problems   the MDPs, and the libraries that are too slow on them for repetitions
contest    times the same questions for each library in turn
growth     seconds, memory and residual of one MDP, in a separate process
alone      runs a module in a separate process, with a time limit
"""

import os

# For all libraries, before numpy loads: idle BLAS threads sleep instead of spinning. On busy cores,
# spinning made two threads up to ten times slower than one.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
