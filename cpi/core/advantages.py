"""Group-relative advantages (GRPO, Shao et al. 2024), normalised within each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from envs.tabular import FloatArray, real_array

Scale = Literal["group", "batch", "none"]

#: TRL's conventions: the sample standard deviation, and the constant added to it.
DDOF = 1
EPSILON = 1e-4


def group_advantages(returns: Sequence[ArrayLike], scale: Scale = "group") -> list[FloatArray]:
    """Â = (R − mean of the group) / (std + 1e-4), where `scale` selects std.

    Parameters
    ----------
    returns : sequence of arrays (G,)
        Returns of each group's episodes; groups may differ in size.
    scale : {"group", "batch", "none"}
        TRL's `scale_rewards`: divide by the group's standard deviation, by that of all returns of
        the batch, or not at all (Dr. GRPO). Standard deviations have ddof 1; that of a single
        return is 0.

    Returns
    -------
    list of arrays (G,)
        Each sums to 0.

    Raises
    ------
    ValueError
        If `scale` is none of these, or a return is not a finite number.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale: {scale!r} is not 'group', 'batch' or 'none'")
    groups = [
        real_array(group, f"returns: group {number}", ValueError)[0]
        for number, group in enumerate(returns)
    ]
    for number, group in enumerate(groups):
        if group.ndim != 1 or not np.isfinite(group).all():
            raise ValueError(f"returns: group {number} is {group}, not a list of finite numbers")
    if not groups:
        return []
    batch = _std(np.concatenate(groups))
    advantages = []
    for group in groups:
        # The mean of equal returns may be off by an ulp, but their advantages must be exactly 0.
        centred = group - group.mean() if (group != group[:1]).any() else np.zeros_like(group)
        spread = {"group": _std(group), "batch": batch, "none": None}[scale]
        advantages.append(centred if spread is None else centred / (spread + EPSILON))
    return advantages


def _std(returns: FloatArray) -> float:
    return float(returns.std(ddof=DDOF)) if len(returns) > DDOF else 0.0
