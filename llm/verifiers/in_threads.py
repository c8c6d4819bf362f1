"""A function over many things at once, where each call waits for another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    cancel: Callable[[], object],
) -> list[Result]:
    """The results, in order. The threads end with the call, so that none is there at a fork.

    Parameters
    ----------
    function, items
    threads : int
    cancel : function
        Called if the wait is cut short, by Ctrl-C say, or a call fails: must make the calls that
        run return soon.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            cancel()
            raise
