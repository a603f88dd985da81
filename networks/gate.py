"""Knowledge behind gates of one number each: the forward and the backward pass, written out."""

# B examples, W width of all kinds, X width into a layer, H width of the layer, J gates

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gated_sum(
    pre_BH: Tensor,
    x_BX: Tensor,
    knowledge_BW: Tensor,
    groups: Sequence[int],
    gates: Sequence[tuple[Tensor, Tensor]],
    of: Sequence[Tensor],
) -> Tensor:
    """Return (B, H) ``pre + Σ_j sigmoid(u_j x + c_j) (k_j P_j)``.

    ``gates`` are u_j (1, X) and c_j (1,); gate j stands before the next ``groups[j]`` columns of
    ``knowledge_BW``. ``of`` are the rows of P (W, H), in parts. Gradients go to pre, u, c and P.

    Autograd's own pass over the same formula takes twice as long beside its matrix products, which
    are all that is left here: k and x get no gradient, a gate is multiplied into k, not into a
    gradient of width H, and the parts of P are laid side by side once.
    """
    weights, biases = zip(*gates, strict=True)
    summed: Tensor = _GatedSum.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        pre_BH, x_BX, knowledge_BW, [*groups], len(gates), *weights, *biases, *of
    )
    return summed


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre_BH: Tensor,
        x_BX: Tensor,
        knowledge_BW: Tensor,
        groups: list[int],
        count: int,
        *weights: Tensor,
    ) -> Tensor:
        u_JX, c_J, p_WH = (
            _joined(weights[:count]),
            _joined(weights[count : 2 * count]),
            _joined(weights[2 * count :]),
        )
        gates_BJ = torch.addmm(c_J, x_BX, u_JX.T).sigmoid_()
        sums_BH = [
            k @ p
            for k, p in zip(
                torch.split(knowledge_BW, groups, 1), torch.split(p_WH, groups), strict=True
            )
        ]
        out_BH = torch.addcmul(pre_BH, gates_BJ[:, :1], sums_BH[0])
        for j in range(1, count):
            out_BH.addcmul_(gates_BJ[:, j : j + 1], sums_BH[j])
        ctx.save_for_backward(x_BX, knowledge_BW, gates_BJ, *sums_BH)
        ctx.groups = groups
        ctx.rows = [len(p) for p in weights[2 * count :]]
        return out_BH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_BX, knowledge_BW, gates_BJ, *sums_BH = ctx.saved_tensors
        count = len(sums_BH)
        if count == 1:
            behind_BW = knowledge_BW * gates_BJ
            of_gates_BJ = (grad_BH * sums_BH[0]).sum(1, keepdim=True)
        else:
            parts = zip(
                torch.split(knowledge_BW, ctx.groups, 1), torch.split(gates_BJ, 1, 1), strict=True
            )
            behind_BW = torch.cat([k * gate_B1 for k, gate_B1 in parts], 1)
            of_gates_BJ = torch.stack([(grad_BH * sum_BH).sum(1) for sum_BH in sums_BH], 1)
        grad_WH = behind_BW.T @ grad_BH
        of_gates_BJ = torch.ops.aten.sigmoid_backward(of_gates_BJ, gates_BJ)
        grad_JX, grad_J = of_gates_BJ.T @ x_BX, of_gates_BJ.sum(0)
        of = torch.split(grad_WH, ctx.rows)
        return (
            grad_BH,
            None,
            None,
            None,
            None,
            *torch.split(grad_JX, 1),
            *torch.split(grad_J, 1),
            *of,
        )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
