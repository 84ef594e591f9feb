"""Works in threads: all come to their ends, whoever takes a step, and an error stops them."""

import threading

import pytest
import torch

from mmnet.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2  # whatever happened, the caller has its threads back
    torch.set_num_threads(before)


def counting(number, steps, seen):
    for step in range(steps):
        seen.append((number, step, torch.get_num_threads()))
        yield
    return 10 * number


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_work_takes_its_steps_in_order_and_its_result_stands_in_its_place(count):
    seen = []
    assert side_by_side([counting(number, 1 + number, seen) for number in range(count)]) == [10 * number for number in range(count)]
    for number in range(count):
        assert [step for who, step, _ in seen if who == number] == list(range(1 + number))


@pytest.mark.parametrize(("count", "each"), [(1, 2), (2, 1), (3, 1)])
def test_torchs_threads_are_shared_out(count, each):
    seen = []
    side_by_side([counting(number, 2, seen) for number in range(count)])
    assert {threads for *_, threads in seen} == {each}


def test_two_works_run_at_the_same_time():
    both = threading.Barrier(2, timeout=60)

    def meeting():
        both.wait()
        yield

    side_by_side([meeting(), meeting()])


def test_an_error_is_raised_and_no_other_work_runs_to_its_end():
    def failing():
        yield
        raise ValueError("broken")

    endless = counting(0, 10**9, [])
    with pytest.raises(ValueError, match="broken"):
        side_by_side([endless, failing()])
