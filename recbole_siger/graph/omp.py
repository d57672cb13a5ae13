"""Subspace graphs by orthogonal matching pursuit, Eq. 3 and Algorithm 1 of SCALE.

SCALE is AAAI 2026, "Subspace-Aware Graph Construction and Contrastive Alignment for Multimodal Recommendation
with Large Language Models".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recbole_siger.graph.cosine import STEP, UnitRows
from recbole_siger.graph.knn import check_tables, edges_of_one
from recbole_siger.graph.nearest import nearest_atoms

__all__ = ["subspace_graph"]

# A residual up to this squared length counts as zero, and so does the contribution of an atom.
NOTHING = 1e-12
# From this number of multiplications on, compiling the loop (about two seconds) saves time. The loop of
# tensors needs eight processor seconds for three times this number (benchmarks/subspaces.py).
COMPILE_FROM = 1_000_000_000
GATHER_BYTES = 64 * 2**20

Pursuit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Unit queries ``(n, d)``, candidates ``(n, k)`` and the first atom's place in them ``(n,)``, -1 for none, to
chosen atoms ``(n, sparsity)``, -1 for none."""


def subspace_graph(queries: Tensor, atoms: Tensor, n_candidates: int, sparsity: int, *, same: bool) -> Tensor:
    r"""Connect every query to the few atoms whose linear combination approximates it.

    .. math::
        j_t = \arg\max_j |\langle D_j, r_{t-1} \rangle|, \qquad
        r_t = x - D_S z_S, \quad z_S = \arg\min_z \lVert x - D_S z \rVert, \quad S = \{j_1, \dots, j_t\}

    Source: Eq. 3 and Algorithm 1 of SCALE. D has the ``n_candidates`` atoms with the highest cosine to the
        query.
    All rows have length 1. The weight of an edge is 1 for either sign of its coefficient. No system is
    solved: the residual is kept orthogonal to an orthonormal basis of the chosen atoms.

    Equal correlations, and equal cosines of the last candidates, are ordered by the lower atom id. Numbers
    are equal if they are equal after rounding to 2^-30. A row stops early if its residual is at most 1e-6 or
    orthogonal to all candidates: a row with an identical atom has one edge. An all-zero row, such as the
    padding row 0, has no edge in either direction. float64 decides, so neither the device nor the loop
    changes the result.

    Args:
        queries: Rows to approximate, shape ``(A, d)``, any float dtype, finite.
        atoms: Rows that approximate them, shape ``(B, d)``.
        n_candidates: :math:`k_s`, >= 1; a larger number than the number of atoms means all atoms.
        sparsity: :math:`k_o`, the most edges of a row, in ``[1, n_candidates]``.
        same: Both tables are the same table; a row is then not its own atom.

    Returns:
        Coalesced sparse COO tensor of ones, shape ``(A, B)``, float32, on ``queries.device``.

    Raises:
        ValueError: If a table is not a finite float matrix, the widths differ, the tables differ in size
            with ``same``, or a number is out of range.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> subspace_graph(x, x, n_candidates=3, sparsity=2, same=True).to_dense()
        tensor([[0., 0., 0., 0.],
                [0., 0., 1., 1.],
                [0., 1., 0., 1.],
                [0., 1., 1., 0.]])
    """
    if not 1 <= sparsity <= n_candidates:
        raise ValueError(f"sparsity must be in [1, n_candidates={n_candidates}], got {sparsity}")
    check_tables(queries, atoms, same=same)
    rows, table = UnitRows(queries), UnitRows(atoms)
    sparsity = min(sparsity, len(table), atoms.shape[1])  # more atoms are not independent
    pursue, parts = _pursuit(rows, table, n_candidates, sparsity), []
    for some, candidates, first in candidate_atoms(rows, table, n_candidates, same=same):
        unit = rows.inverse_norm[some, None] * rows.features[rows.index[some]].double()
        chosen = pursue(unit, candidates, first)
        row, place = (chosen >= 0).nonzero(as_tuple=True)
        parts.append(torch.stack((rows.index[some][row], table.index[chosen[row, place]])))
    return edges_of_one(parts, (len(queries), len(atoms)), queries.device)


def candidate_atoms(
    rows: UnitRows, table: UnitRows, n_candidates: int, *, same: bool
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Search the nearest atoms of each row, see :func:`~recbole_siger.graph.nearest.nearest_atoms`.

    Yields:
        The rows; positions of their candidates, ascending, so that the first of equal atoms has the lowest
        id, ``(n, k)``, ``len(table)`` for none; places of the first atoms, ``(n,)``, -1 for none.
    """
    for some, found, step in nearest_atoms(rows, table, n_candidates, same=same):
        candidates, order = found.sort(dim=1)
        yield some, candidates, first_place(step.gather(1, order), candidates < len(table))


def first_place(step: Tensor, there: Tensor) -> Tensor:
    """Return the place of the first atom, which the cosines of the search decide; -1 if all of them are 0.

    Args:
        step: Cosines of the candidates in units of ``STEP``, by ascending id, shape ``(n, k)``.
        there: Whether there is a candidate, shape ``(n, k)``.

    Returns:
        Shape ``(n,)``; the first of equal candidates.
    """
    k = step.shape[1]
    key = (step.abs() * k).add_(torch.arange(k - 1, -1, -1, device=step.device))
    best, at = key.masked_fill_(~there, -1).max(dim=1)
    return at.masked_fill_(best < k, -1)


def _pursuit(rows: UnitRows, table: UnitRows, n_candidates: int, sparsity: int) -> Pursuit:
    """Use the loop of numba for large inputs on the CPU, else tensors."""
    work = len(rows) * min(n_candidates, len(table)) * table.features.shape[1] * sparsity
    if table.features.is_cpu and work >= COMPILE_FROM:
        from recbole_siger.graph.compiled import Pursuer

        features, index, inverse_norm = (x.numpy() for x in (table.features, table.index, table.inverse_norm))
        pursuer = Pursuer(features, index, inverse_norm, sparsity, STEP)

        def compiled(unit: Tensor, candidates: Tensor, first: Tensor) -> Tensor:
            chosen = pursuer.pursue(unit.numpy(), candidates.numpy(), first.numpy(), NOTHING)
            return torch.from_numpy(chosen)

        return compiled

    def by_tensors(unit: Tensor, candidates: Tensor, first: Tensor) -> Tensor:
        n = max(1, GATHER_BYTES // (8 * candidates.shape[1] * unit.shape[1]))
        parts = zip(unit.split(n), candidates.split(n), first.split(n), strict=True)
        return torch.cat([_pursue(*part, table, sparsity) for part in parts])

    return by_tensors


def _pursue(residual: Tensor, candidates: Tensor, first: Tensor, table: UnitRows, sparsity: int) -> Tensor:
    """Run the pursuit of a few queries at once.

    Args:
        residual: Unit queries, shape ``(n, d)``, float64; overwritten.
        candidates: Positions of atoms, ascending, shape ``(n, k)``, ``len(table)`` for none.
        first: Places of the first atoms, shape ``(n,)``, -1 for none.
        table: All atoms.
        sparsity: Atoms to choose.

    Returns:
        Positions of the chosen atoms in order, shape ``(n, sparsity)``, -1 for none.
    """
    n, k = candidates.shape
    free = candidates < len(table)
    place = candidates.clamp_max(len(table) - 1)
    atoms = table.features[table.index[place]].double() * table.inverse_norm[place].unsqueeze(2)
    basis = residual.new_zeros((n, sparsity, residual.shape[1]))
    chosen = candidates.new_full((n, sparsity), -1)
    count, row = candidates.new_zeros(n), torch.arange(n, device=candidates.device)
    order = torch.arange(k - 1, -1, -1, device=candidates.device)
    for number in range(k):
        if number:
            step = (torch.bmm(atoms, residual.unsqueeze(2)).squeeze(2).abs() / STEP).round().long()
            best, at = (step.masked_fill(~free, -1) * k + order).max(dim=1)
            active = (best >= k) & (count < sparsity) & (residual.square().sum(dim=1) > NOTHING)
        else:
            at, active = first.clamp_min(0), first >= 0
        if not active.any():
            break
        free[row[active], at[active]] = False
        atom = atoms[row, at]
        for _ in range(2):  # the second pass removes the rounding errors of the first pass
            atom = atom - torch.einsum("nsd,ns->nd", basis, torch.einsum("nsd,nd->ns", basis, atom))
        length = atom.norm(dim=1)
        grown = active & (length.square() > NOTHING)
        atom = atom[grown] / length[grown, None]
        basis[row[grown], count[grown]] = atom
        chosen[row[grown], count[grown]] = candidates[row[grown], at[grown]]
        residual[grown] -= (residual[grown] * atom).sum(dim=1, keepdim=True) * atom
        count += grown
    return chosen
