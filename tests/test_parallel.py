import os

import pytest

from grlo.parallel import map_batches


def squares(numbers):
    return [(number * number, os.getpid()) for number in numbers]


def fails(numbers):
    if 7 in numbers:
        raise ValueError("seven")
    return numbers


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_with_their_items_in_order(processes):
    found = list(map_batches(squares, range(23), batch=4, processes=processes))
    assert [(item, result) for item, (result, _) in found] == [(n, n * n) for n in range(23)]
    used = {process for _, (_, process) in found}
    assert (used == {os.getpid()}) == (processes == 1)


def test_items_are_read_as_they_are_needed():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_batches(squares, items(), batch=5, processes=2)
    next(results)
    assert len(taken) <= 5 * 6
    results.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_the_work_is_raised(processes):
    with pytest.raises(ValueError, match="seven"):
        list(map_batches(fails, range(20), batch=5, processes=processes))


def test_nothing_to_do_gives_nothing():
    assert list(map_batches(squares, [], batch=5, processes=1)) == []
