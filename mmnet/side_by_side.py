"""Several works at once, a thread each: torch's operations let other threads run Python meanwhile."""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(works: Sequence[Generator[None, None, T]]) -> list[T]:
    """Run works to their ends -> what each returns: as many at once as torch has threads, each with an equal share of these.

    A work is a generator that yields after each step, and may go on in another thread: steps are given out in turn, so that
    all threads have work to the end whatever the number of works. Numbers do not depend on who computes them as long as no
    two works share any, a generator included. An error or an interrupt stops all after the step they are at.
    """
    threads = torch.get_num_threads()
    waiting, stop = deque(enumerate(works)), threading.Event()
    ended: dict[int, T] = {}

    def go_on() -> None:
        while not stop.is_set():
            try:
                number, work = waiting.popleft()
            except IndexError:
                return  # what is left is in other hands
            try:
                next(work)
            except StopIteration as end:
                ended[number] = end.value
            except BaseException:
                stop.set()
                raise
            else:
                waiting.append((number, work))

    at_once = min(threads, len(works))
    torch.set_num_threads(threads // at_once)  # new threads begin with what is set here
    try:
        with ThreadPoolExecutor(at_once) as pool:
            try:
                for future in [pool.submit(go_on) for _ in range(at_once)]:
                    future.result()
            finally:
                stop.set()
    finally:
        torch.set_num_threads(threads)
    return [ended[number] for number in range(len(works))]
