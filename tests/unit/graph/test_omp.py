"""Which loop runs, in which blocks, on which device, and the exact refusals of SCALE's graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_siger.graph import compiled, nearest, omp
from recbole_siger.graph.cosine import STEP, UnitRows
from recbole_siger.graph.knn import similarity_graph
from recbole_siger.graph.omp import subspace_graph


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Seven queries and eleven atoms of width 5; row 0 of each is zero, so 6 and 10 rows count."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(7, 5, generator=generator), torch.randn(11, 5, generator=generator)
    x[0], y[0] = 0, 0
    return x, y


@pytest.mark.parametrize(("n_candidates", "work"), [(3, 6 * 3 * 5 * 2), (13, 6 * 10 * 5 * 2)])
def test_the_loop_is_compiled_from_a_number_of_multiplications(
    n_candidates: int, work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, table = map(UnitRows, tables())
    for least, name in ((work, "compiled"), (work + 1, "by_tensors")):
        monkeypatch.setattr(omp, "COMPILE_FROM", least)
        assert omp._pursuit(rows, table, n_candidates, 2).__name__ == name


def test_the_compiled_loop_gets_the_table_and_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Recorder:
        def __init__(self, *given: Any) -> None:
            seen.append(given)

        def pursue(self, *given: Any) -> Any:
            seen.append(given)
            return given[1]

    monkeypatch.setattr(compiled, "Pursuer", Recorder)
    monkeypatch.setattr(omp, "COMPILE_FROM", 0)
    rows, table = map(UnitRows, tables())
    unit, candidates = torch.ones(6, 5, dtype=torch.float64), torch.arange(18).view(6, 3)
    first = torch.tensor([2, 0, -1, 1, 1, 0])
    chosen = omp._pursuit(rows, table, 3, 2)(unit, candidates, first)
    (features, index, inverse_norm, sparsity, step), (given_unit, given_candidates, given_first, nothing) = (
        seen
    )
    assert given_first.tolist() == first.tolist()
    assert (sparsity, step, nothing) == (2, STEP, omp.NOTHING)
    assert features.tolist() == table.features.tolist()
    assert index.tolist() == table.index.tolist()
    assert inverse_norm.tolist() == table.inverse_norm.tolist()
    assert given_unit.tolist() == unit.tolist()
    assert given_candidates.tolist() == candidates.tolist()
    assert torch.equal(chosen, candidates)


@pytest.mark.parametrize(
    ("n_bytes", "sizes"), [(8 * 3 * 5 * 4, [4, 2]), (8 * 3 * 5 * 4 - 1, [3, 3]), (1, [1] * 6)]
)
def test_tensors_gather_atoms_in_bounded_blocks(
    n_bytes: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = tables()
    expected = subspace_graph(x, y, 3, 2, same=False)
    seen, pursue = [], omp._pursue

    def recorded(residual: torch.Tensor, candidates: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append((len(residual), len(candidates)))
        return pursue(residual, candidates, *given)

    monkeypatch.setattr(omp, "_pursue", recorded)
    monkeypatch.setattr(omp, "GATHER_BYTES", n_bytes)
    assert torch.equal(subspace_graph(x, y, 3, 2, same=False).to_dense(), expected.to_dense())
    assert seen == [(size, size) for size in sizes]


def test_graphs_of_features_are_on_the_device_of_the_features() -> None:
    """Whatever the default device is: on ``meta``, which is the default here, no tensor has values."""
    x, y = tables()
    nothing = torch.zeros(3, 5)

    def build() -> list[torch.Tensor]:
        return [
            subspace_graph(x, y, 7, 3, same=False),
            subspace_graph(x, x, 5, 2, same=True),
            similarity_graph(x, y, 3, same=False),
            similarity_graph(nothing, y, 3, same=False),
        ]

    expected = build()
    with torch.device("meta"):
        built = build()
    for one, other in zip(built, expected, strict=True):
        assert one.is_cpu
        assert torch.equal(one.to_dense(), other.to_dense())


@pytest.mark.parametrize(
    "build",
    [lambda x, y: similarity_graph(x, y, 1, same=False), lambda x, y: subspace_graph(x, y, 1, 1, same=False)],
)
def test_tables_without_directions_have_no_edges(build: Any) -> None:
    """A rectangular graph of the right shape and type, whichever table is all zero."""
    for x, y in ((torch.zeros(3, 2), torch.ones(5, 2)), (torch.ones(3, 2), torch.zeros(5, 2))):
        graph = build(x, y)
        assert graph.shape == (3, 5)
        assert graph._nnz() == 0
        assert graph.indices().shape == (2, 0)
        assert graph.dtype == torch.float32


def test_one_candidate_and_one_edge_are_allowed() -> None:
    x, y = tables()
    one = subspace_graph(x, y, 1, 1, same=False)
    assert torch.equal(one.to_dense(), similarity_graph(x, y, 1, same=False).to_dense())


@pytest.mark.parametrize("least", [0, 10**9])
def test_a_sparsity_beyond_the_number_of_atoms_needs_no_memory(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omp, "COMPILE_FROM", least)
    for x, y in (tables(), [table[:4] for table in tables()]):  # more and fewer atoms than numbers in a row
        expected = subspace_graph(x, y, len(y), min(len(y), 5), same=False)
        assert torch.equal(subspace_graph(x, y, 2**62, 2**62, same=False).to_dense(), expected.to_dense())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: subspace_graph(x, x, 3, 0, same=True), "sparsity must be in [1, n_candidates=3], got 0"),
        (lambda x: subspace_graph(x, x, 3, 4, same=True), "sparsity must be in [1, n_candidates=3], got 4"),
        (
            lambda x: similarity_graph(x[0], x, 1, same=False),
            "queries must be a non-empty float matrix, got torch.float32 of shape (5,)",
        ),
        (
            lambda x: similarity_graph(x, x[:, :0], 1, same=False),
            "atoms must be a non-empty float matrix, got torch.float32 of shape (7, 0)",
        ),
        (
            lambda x: subspace_graph(x, x.long(), 1, 1, same=False),
            "atoms must be a non-empty float matrix, got torch.int64 of shape (7, 5)",
        ),
        (
            lambda x: subspace_graph(x, x[:3, :2], 1, 1, same=False),
            "queries are 5 wide and atoms 2; use equal widths",
        ),
        (
            lambda x: similarity_graph(x, x[:3], 1, same=True),
            "same=True requires one table, got 7 and 3 rows",
        ),
        (lambda x: similarity_graph(x, x, 0, same=True), "k must be at least 1, got 0"),
    ],
)
def test_refusals_word_for_word(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call(tables()[0])
    assert str(error.value) == message


def edges(queries: list[list[float]], atoms: list[list[float]], sparsity: int) -> list[list[int]]:
    x, y = (torch.tensor(table, dtype=torch.float64) for table in (queries, atoms))
    graph = subspace_graph(x, y, len(atoms), sparsity, same=False).to_dense()
    return [row.nonzero().flatten().tolist() for row in graph]


def test_each_row_stops_at_a_small_residual_of_its_own() -> None:
    """The first query has a residual of 3e-7 along atom 1; the second query needs both atoms."""
    atoms = [[1.0, 0.0], [0.0, 1.0]]
    assert edges([[1.0, 3e-7], [1.0, 0.5]], atoms, 2) == [[0], [0, 1]]
    assert edges([[1.0, 3e-6], [1.0, 0.5]], atoms, 2) == [[0, 1], [0, 1]]


def test_the_smallest_correlation_that_counts_is_one_step() -> None:
    assert edges([[1.0, 0.0]], [[STEP, 1.0]], 1) == [[0]]
    assert edges([[1.0, 0.0]], [[STEP / 4, 1.0]], 1) == [[]]


def test_an_atom_that_adds_nothing_is_tried_once() -> None:
    """After atom 1, atom 0 has the highest correlation, but is 5e-7 from the chosen direction."""
    assert edges([[1.0, 0.5, 0.0]], [[1.0, 0.0, 0.0], [1.0, 5e-7, 0.0], [0.0, 1e-7, 1.0]], 2) == [[1, 2]]


def test_one_number_is_a_table() -> None:
    x, y = torch.full((1, 1), 3.0), torch.tensor([[0.0], [2.0]])
    assert similarity_graph(x, y, 1, same=False).to_dense().tolist() == [[0, 1]]
    assert subspace_graph(y, x, 1, 1, same=False).to_dense().tolist() == [[0], [1]]


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six queries in blocks of four: 8 bytes for each of 10 atoms, the rows that are not zero."""
    x, y = tables()

    def build() -> list[list[list[float]]]:
        graphs = similarity_graph(x, y, 3, same=False), subspace_graph(x, y, 7, 3, same=False)
        return [graph.to_dense().tolist() for graph in graphs]

    expected = build()
    monkeypatch.setattr(nearest, "CROSS_BYTES", 4 * 8 * 10)
    assert build() == expected


def test_the_first_atom_has_the_largest_cosine_of_either_sign_and_then_the_lowest_id() -> None:
    step = torch.tensor([[3, -7, 7], [0, 0, 0], [9, 1, -4], [5, 5, 9]])
    there = torch.tensor([[True, True, True], [True, True, True], [False, True, True], [True, True, False]])
    assert omp.first_place(step, there).tolist() == [1, -1, 2, 0]
