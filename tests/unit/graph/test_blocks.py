"""Combined graphs, block matrices and the draw of columns outside a row's neighbours, by hand."""

from __future__ import annotations

import pytest
import torch

from recbole_siger.graph.blocks import (
    combine_graphs,
    draw_non_neighbors,
    edge_facts,
    join_blocks,
    non_neighbors,
)


def three_graphs() -> list[torch.Tensor]:
    """Graphs with edges in one, two and three of them; the first graph is not coalesced."""
    repeated = torch.sparse_coo_tensor(
        [[0, 0, 0, 1], [0, 0, 1, 2]], [1.0, 4.0, 7.0, 2.0], (2, 3), check_invariants=True
    )
    second = torch.tensor([[0.5, 3.0, 0.0], [0.0, 0.0, 0.0]])
    third = torch.tensor([[-2.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    return [repeated, second.to_sparse(), third.to_sparse()]


@pytest.mark.parametrize(
    ("how", "expected"),
    [("union", [[1, 1, 0], [0, 1, 1]]), ("intersection", [[1, 0, 0], [0, 0, 0]])],
)
def test_an_edge_counts_once_per_graph(how: str, expected: list[list[int]]) -> None:
    combined = combine_graphs(three_graphs(), how)
    assert combined.is_coalesced()
    assert combined.dtype == torch.float32
    assert combined.to_dense().tolist() == expected
    assert combined._nnz() == sum(map(sum, expected))


def test_one_graph_is_combined_with_itself() -> None:
    for how in ("union", "intersection"):
        assert combine_graphs(three_graphs()[:1], how).to_dense().tolist() == [[1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("n_graphs", "how", "message"),
    [
        (1, "both", "expected 'union' or 'intersection' of graphs of one shape, got 'both' of {(2, 3)}"),
        (0, "union", "expected 'union' or 'intersection' of graphs of one shape, got 'union' of set()"),
    ],
)
def test_combine_refuses(n_graphs: int, how: str, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        combine_graphs(three_graphs()[:n_graphs], how)
    assert str(error.value) == message


USERS = [[0.0, 2.0], [3.0, 0.0]]
USER_ITEMS = [[0.0, 5.0, 7.0], [11.0, 0.0, 0.0]]
ITEMS = [[0.0, 0.0, 13.0], [17.0, 0.0, 0.0], [0.0, 19.0, 23.0]]
NO_USERS, NO_LINKS, NO_ITEMS = [[0.0] * 2] * 2, [[0.0] * 3] * 2, [[0.0] * 3] * 3


def joined_by_hand(
    users: list[list[float]], user_items: list[list[float]], items: list[list[float]]
) -> list[list[float]]:
    upper = [a + b for a, b in zip(users, user_items, strict=True)]
    mirrored = [list(column) for column in zip(*user_items, strict=True)]
    return upper + [a + b for a, b in zip(mirrored, items, strict=True)]


@pytest.mark.parametrize("absent", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_only_the_block_between_users_and_items_is_mirrored(absent: tuple[int, ...]) -> None:
    tables, empty = [USERS, USER_ITEMS, ITEMS], [NO_USERS, NO_LINKS, NO_ITEMS]
    blocks = [None if i in absent else torch.tensor(table).to_sparse() for i, table in enumerate(tables)]
    graph = join_blocks(*blocks, (2, 3))
    assert graph.is_coalesced()
    assert graph.to_dense().tolist() == joined_by_hand(
        *(empty[i] if i in absent else table for i, table in enumerate(tables))
    )


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((NO_LINKS, None, None), "expected a block of shape (2, 2), got (2, 3)"),
        ((None, NO_ITEMS, None), "expected a block of shape (2, 3), got (3, 3)"),
        ((None, None, NO_LINKS), "expected a block of shape (3, 3), got (2, 3)"),
        ((None, None, None), "expected at least one block"),
    ],
)
def test_join_refuses(blocks: tuple[list[list[float]] | None, ...], message: str) -> None:
    given = [None if table is None else torch.tensor(table).to_sparse() for table in blocks]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        join_blocks(*given, (2, 3))
    assert str(error.value) == message


def test_facts_of_a_graph() -> None:
    wide = torch.zeros(1401, 3)
    wide[1:701] = 1
    assert edge_facts(wide.to_sparse()) == "2,100 edges, 1.50 a row, 700 of 1,400 rows empty"
    few = torch.zeros(2503, 2)
    few[[0, 2], 1] = 1
    assert edge_facts(few.to_sparse()) == "2 edges, 0.00 a row, 2,501 of 2,502 rows empty"
    assert edge_facts(torch.zeros(1, 2).to_sparse()) == "0 edges, 0.00 a row, 0 of 0 rows empty"
    one = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).to_sparse()
    assert edge_facts(one) == "1 edges, 1.00 a row, 0 of 1 rows empty"
    repeated = torch.sparse_coo_tensor([[1, 1, 2], [0, 0, 1]], [1.0, 1.0, 1.0], (3, 2), check_invariants=True)
    assert edge_facts(repeated) == "2 edges, 1.00 a row, 0 of 2 rows empty"


def neighbors() -> torch.Tensor:
    """Row 3 has all columns, row 4 has column 0 as a neighbour, row 1 is empty."""
    table = torch.zeros(5, 5)
    table[0, 3] = table[2, 4] = table[2, 1] = 1
    table[3] = 1
    table[4, 0] = table[4, 2] = 1
    return table.to_sparse()


def test_excluded_columns_are_ascending_and_padded() -> None:
    excluded, n_free = non_neighbors(neighbors(), same=False)
    assert excluded.tolist() == [
        [0, 3, 5, 5, 5],
        [0, 5, 5, 5, 5],
        [0, 1, 4, 5, 5],
        [0, 1, 2, 3, 4],
        [0, 2, 5, 5, 5],
    ]
    assert n_free.tolist() == [3, 4, 2, 0, 3]
    assert excluded.dtype == n_free.dtype == torch.int64


def test_with_same_each_row_is_excluded_from_its_own_columns() -> None:
    excluded, n_free = non_neighbors(neighbors(), same=True)
    assert excluded.tolist() == [
        [0, 3, 5, 5, 5],
        [0, 1, 5, 5, 5],
        [0, 1, 2, 4, 5],
        [0, 1, 2, 3, 4],
        [0, 2, 4, 5, 5],
    ]
    assert n_free.tolist() == [3, 3, 1, 0, 2]


def test_excluded_columns_of_a_wide_table() -> None:
    """More columns than rows: the number of columns decides the code of an edge."""
    table = torch.zeros(2, 7)
    table[1, 6] = 1
    excluded, n_free = non_neighbors(table.to_sparse(), same=False)
    assert excluded.tolist() == [[0, 7], [0, 6]]
    assert n_free.tolist() == [6, 5]


def test_a_draw_maps_each_share_to_its_free_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares at the borders of 1/3, and the largest share below 1."""
    share = torch.tensor([[0.0, 0.3333, 0.3334, 0.6666, 0.6667, 1 - 2**-53]], dtype=torch.float64)
    asked = []

    def rand(shape: tuple[int, int], **options: object) -> torch.Tensor:
        asked.append((shape, options["dtype"]))
        return share.expand(shape)

    monkeypatch.setattr(torch, "rand", rand)
    excluded, n_free = non_neighbors(neighbors(), same=False)
    drawn = draw_non_neighbors(torch.tensor([4, 2, 0]), 6, excluded, n_free)
    assert drawn.tolist() == [[1, 1, 3, 3, 4, 4], [2, 2, 2, 3, 3, 3], [1, 1, 2, 2, 4, 4]]
    assert asked == [((3, 6), torch.float64)]


def test_a_share_that_rounds_to_one_gives_the_last_free_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.ones(shape, dtype=torch.float64))
    excluded, n_free = non_neighbors(neighbors(), same=False)
    assert draw_non_neighbors(torch.tensor([1]), 1, excluded, n_free).tolist() == [[4]]


def test_a_generator_makes_the_draw_repeatable() -> None:
    excluded, n_free = non_neighbors(neighbors(), same=False)
    row = torch.tensor([0, 1, 4] * 11)
    one, other = (
        draw_non_neighbors(row, 5, excluded, n_free, torch.Generator().manual_seed(seed)) for seed in (3, 3)
    )
    assert torch.equal(one, other)
    torch.manual_seed(3)
    assert torch.equal(draw_non_neighbors(row, 5, excluded, n_free), one)


def test_results_are_on_the_device_of_the_graphs() -> None:
    """Whatever the default device is: on ``meta``, which is the default here, no tensor has values."""
    graphs, graph = three_graphs(), neighbors()
    blocks = [torch.tensor(table).to_sparse() for table in (USERS, USER_ITEMS, ITEMS)]
    with torch.device("meta"):
        assert combine_graphs(graphs, "union").to_dense().sum().item() == 4
        assert join_blocks(*blocks, (2, 3)).to_dense().sum().item() == 123
        excluded, n_free = non_neighbors(graph, same=True)
        draw = draw_non_neighbors(
            torch.tensor([4], device="cpu"), 2, excluded, n_free, torch.Generator("cpu")
        )
    assert n_free.tolist() == [3, 3, 1, 0, 2]
    assert draw.is_cpu
    assert set(draw.flatten().tolist()) <= {1, 3}
