import pytest
import torch

from narrowgauge.methods.mtraining import Transport, run_threads


def test_hops_arrive_in_order_and_gathering_is_by_rank() -> None:
    def body(transport: Transport) -> tuple[list[float], list[float]]:
        to, source = (transport.rank + 1) % 3, (transport.rank - 1) % 3
        hops = [transport.start([torch.tensor(10.0 * transport.rank + hop)], to, source) for hop in range(2)]
        return [float(hop.wait()[0]) for hop in hops], [
            float(x) for x in transport.gather(torch.tensor(transport.rank))
        ]

    found = run_threads(3, body)
    assert [hops for hops, _ in found] == [[20.0, 21.0], [0.0, 1.0], [10.0, 11.0]]
    assert [gathered for _, gathered in found] == [[0.0, 1.0, 2.0]] * 3


def test_what_arrives_is_a_copy() -> None:
    def body(transport: Transport) -> float:
        x = torch.ones(1)
        hop = transport.start([x], 1 - transport.rank, 1 - transport.rank)
        x.zero_()
        return float(hop.wait()[0])

    assert run_threads(2, body) == [1.0, 1.0]


def test_a_rank_that_fails_does_not_leave_the_others_waiting() -> None:
    def body(transport: Transport) -> None:
        if transport.rank == 1:
            raise ArithmeticError("rank 1")
        transport.start([torch.ones(1)], 1, 1).wait()

    with pytest.raises(ArithmeticError, match="rank 1"):
        run_threads(2, body)
