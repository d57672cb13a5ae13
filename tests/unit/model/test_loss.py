from __future__ import annotations

import math
import re
import warnings

import pytest
import torch

from recbole_siger.model.loss import (
    anchor_info_nce,
    bpr_loss,
    cosine_loss,
    info_nce,
    l2_loss,
    norm_loss,
    relation_loss,
)

N_QUERIES, N_KEYS, WIDTH = 7, 11, 5


def tables(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, anchors and keys that want gradients; the first key is zero."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((N_QUERIES, WIDTH), (N_QUERIES, WIDTH), (N_KEYS, WIDTH))
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    made[2][0] = 0
    return [table.requires_grad_() for table in made]


TARGET = torch.tensor([3, 1, 3, 10, 0, 2, 5])


def both_losses(query, anchor, key, chunk_size=2048, temperature=0.2):
    options = {"target": TARGET, "chunk_size": chunk_size}
    return torch.stack(
        (
            info_nce(query, key, temperature, **options),
            anchor_info_nce(query, key, anchor, temperature, **options),
        )
    )


@pytest.mark.parametrize("chunk_size", [1, 3, N_QUERIES])
def test_chunks_change_neither_value_nor_gradient(chunk_size):
    whole, cut = tables(), tables()
    expected, loss = both_losses(*whole), both_losses(*cut, chunk_size=chunk_size)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    expected.sum().backward()
    loss.sum().backward()
    for left, right in zip(cut, whole, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk_size", [3, 2048])
def test_contrast_gradients(chunk_size):
    made = tables()
    made[2] = torch.randn(N_KEYS, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: both_losses(*t, chunk_size=chunk_size), made)


def test_pairwise_loss_gradients():
    pos, neg = torch.randn(2, 7, dtype=torch.float64).unbind()
    assert torch.autograd.gradcheck(bpr_loss, (pos.requires_grad_(), neg.requires_grad_()))
    assert torch.autograd.gradcheck(l2_loss, (tables()[0], tables()[1]))


def test_zero_vectors_have_cosine_and_gradient_zero():
    zeros = [torch.zeros(N_QUERIES, WIDTH, requires_grad=True) for _ in range(3)]
    loss = info_nce(zeros[0], zeros[1], 0.1) + anchor_info_nce(*zeros, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(2 * torch.tensor(float(N_QUERIES)).log().item())
    for table in zeros:
        assert torch.equal(table.grad, torch.zeros(N_QUERIES, WIDTH))


def test_length_does_not_matter():
    query, anchor, key = tables()
    longer = both_losses(100 * query, 0.01 * anchor, 7 * key)
    torch.testing.assert_close(longer, both_losses(query, anchor, key))


@pytest.mark.parametrize("temperature", [0.2, 0.02, 0.01])
def test_float32_is_that_of_whole_float64_matrices(temperature):
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(n, 13, generator=generator) for n in (601, 601, 701)]
    made[2][5], made[2][7] = made[0][5], -made[0][7]  # a cosine of 1, and one of -1
    target = torch.randint(701, (601,), generator=generator)
    target[5], target[7] = 5, 7
    fast, dense = ([t.to(dtype).requires_grad_() for t in made] for dtype in (torch.float32, torch.float64))

    a, c, b = (torch.nn.functional.normalize(t, dim=1) for t in dense)
    logits = a @ b.T / temperature
    plain = torch.nn.functional.cross_entropy(logits, target)
    anchored = ((a * c).sum(dim=1) + (b[target] * c).sum(dim=1)) / (2 * temperature)
    masked = logits.scatter(1, target[:, None], anchored[:, None])
    wanted = torch.stack((plain, torch.nn.functional.cross_entropy(masked, target)))
    query, anchor, key = fast
    loss = torch.stack(
        (
            info_nce(query, key, temperature, target=target),
            anchor_info_nce(query, key, anchor, temperature, target=target),
        )
    )
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    for one in range(2):
        mine = torch.autograd.grad(loss[one], fast, retain_graph=True, allow_unused=True)
        exact = torch.autograd.grad(wanted[one], dense, retain_graph=True, allow_unused=True)
        for left, right in zip(mine, exact, strict=True):
            if right is not None:
                assert (left.double() - right).norm() <= 1e-5 * right.norm()


def test_nothing_of_queries_times_keys_is_allocated():
    n, seen = 3001, []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(t.numel() for t in (out if isinstance(out, tuple) else (out,)) if hasattr(t, "numel"))
            return out

    tables = [torch.randn(n, 5, requires_grad=True) for _ in range(3)]
    with Sizes():
        info_nce(tables[0], tables[1], 0.2).backward()
        anchor_info_nce(*tables, 0.2).backward()
    assert max(seen) == 128 * n


def test_a_tiny_temperature_does_not_overflow():
    loss = both_losses(*tables(torch.float32), temperature=1e-4)
    assert loss.isfinite().all()
    assert loss.max() > 1000


def test_extreme_scores_do_not_overflow():
    assert bpr_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == pytest.approx(2e4)
    assert bpr_loss(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0


def test_default_target_is_the_diagonal():
    query, anchor, key = (table[:N_QUERIES] for table in tables())
    diagonal = torch.arange(N_QUERIES)
    assert info_nce(query, key, 0.2) == info_nce(query, key, 0.2, target=diagonal)
    assert anchor_info_nce(query, key, anchor, 0.2) == anchor_info_nce(
        query, key, anchor, 0.2, target=diagonal
    )


def test_losses_are_scalars():
    query, anchor, key = tables()
    for loss in (*both_losses(query, anchor, key), bpr_loss(query[:, 0], anchor[:, 0]), l2_loss(query)):
        assert loss.shape == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be finite and > 0, got 0\.0"),
        ({"temperature": float("nan")}, "got nan"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"key": torch.ones(11, 3)}, r"got \(7, 5\) and \(11, 3\)"),
        ({"query": torch.ones(0, 5)}, r"got \(0, 5\) and \(11, 5\)"),
        ({"target": None}, "B and N must be equal, got 7 and 11"),
        ({"target": torch.arange(11)}, r"int64 of shape \(7,\), got torch\.int64 of shape \(11,\)"),
        ({"target": torch.arange(7.0)}, r"got torch\.float32"),
        ({"target": torch.full((7,), -100)}, r"target -100 is outside \[0, 11\)"),
        ({"target": torch.full((7,), 11)}, r"target 11 is outside \[0, 11\)"),
        ({"target": torch.tensor([0, 1, 2, 3, 4, 5, 11])}, r"target 11 is outside \[0, 11\)"),
        ({"query": torch.ones(7)}, r"got \(7,\) and \(11, 5\)"),
    ],
)
def test_contrasts_refuse(change, message):
    good = {
        "query": torch.ones(7, 5),
        "key": torch.ones(11, 5),
        "temperature": 0.2,
        "target": torch.arange(7),
    }
    arguments = {**good, **change}
    with pytest.raises(ValueError, match=message):
        info_nce(**arguments)
    query, key = arguments.pop("query"), arguments.pop("key")
    with pytest.raises(ValueError, match=message):
        anchor_info_nce(query, key, torch.ones_like(query), **arguments)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"same shape, got \(7, 5\) and \(11, 5\)"):
        anchor_info_nce(torch.ones(7, 5), torch.ones(11, 5), torch.ones(11, 5), 0.2)
    with pytest.raises(ValueError, match=r"shape \(B,\), got \(7, 1\) and \(7,\)"):
        bpr_loss(torch.ones(7, 1), torch.ones(7))
    with pytest.raises(ValueError, match=r"at least one row, got \[\]"):
        l2_loss()


def test_contrast_takes_half_precision_and_autocast() -> None:
    query, key = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    exact = info_nce(query, key, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(query, key.bfloat16(), 0.2) + anchor_info_nce(query, key, key, 0.2)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(query.grad).all()
    assert abs((loss - anchor_info_nce(query, key, key, 0.2) - exact).item()) < 0.05


def test_zero_vectors_and_tables_have_finite_gradients():
    x = torch.zeros(3, 2, requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    loss = cosine_loss(x, y)
    assert loss.item() == 1
    (loss + norm_loss(x, y)).backward()
    assert not x.grad.any()


def test_baseline_losses_refuse():
    with pytest.raises(ValueError, match=r"shape \(B, d\), got \(7, 5\) and \(7, 3\)"):
        cosine_loss(torch.ones(7, 5), torch.ones(7, 3))
    with pytest.raises(ValueError, match=r"at least one row, got \[\(3, 2\), \(0, 2\)\]"):
        norm_loss(torch.ones(3, 2), torch.ones(0, 2))
    with pytest.raises(ValueError, match=r"at least one row, got \[\(0, 2\), \(3, 2\)\]"):
        l2_loss(torch.ones(0, 2), torch.ones(3, 2))


@pytest.mark.parametrize(("pos", "neg"), [((7,), (11,)), ((7, 1), (7, 1))])
def test_scores_that_would_be_broadcast_are_refused(pos, neg):
    with pytest.raises(ValueError, match=r"must both have shape \(B,\)"):
        bpr_loss(torch.ones(pos), torch.ones(neg))


@pytest.mark.parametrize(
    ("anchor", "positive", "negatives"),
    [
        ((7, 5), (3, 5), (7, 2, 5)),
        ((0, 5), (0, 5), (0, 2, 5)),
        ((5,), (5,), (5, 2, 5)),
        ((7, 5), (7, 5), (7, 2, 3)),
        ((7, 5), (7, 5), (7, 0, 5)),
        ((7, 5), (7, 5), (7, 2, 5, 1)),
    ],
)
def test_relations_refuse_shapes(anchor, positive, negatives):
    message = re.escape(f"got {anchor}, {positive}, {negatives}")
    with pytest.raises(ValueError, match=message):
        relation_loss(torch.ones(anchor), torch.ones(positive), torch.ones(negatives), 0.2)


def test_vectors_of_one_number():
    one = torch.ones(3, 1)
    assert info_nce(one, one, 0.5).item() == pytest.approx(math.log(3))


def test_the_buffer_of_the_logits_has_the_size_of_a_chunk():
    """Torch warns of an ``out`` that it must resize, and then allocates it for each chunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both_losses(*tables(), chunk_size=3)


def test_a_positive_far_above_the_negatives_does_not_overflow():
    """At this temperature the positive's logit is 0 and each negative's is -10,000."""
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert anchor_info_nce(one, -one, one, 1e-4).item() == 0


def test_the_default_target_is_on_the_device_of_the_queries():
    query = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with torch.device("meta"):  # the default device; tensors there have no values
        loss = info_nce(query, query, 0.5)
    assert loss.item() == info_nce(query, query, 0.5).item()
