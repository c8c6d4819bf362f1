"""Map a function over items in threads, for calls that wait for another process."""

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
    """Return the results in order; the threads end with the call, so that a fork copies none.

    Parameters
    ----------
    function, items
    threads : int
    cancel : function
        Called on an interrupt such as Ctrl-C, or if a call fails. It must make running calls
        return soon.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            cancel()
            raise
