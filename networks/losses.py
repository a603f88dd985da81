"""Losses of a click model."""

# B examples, G requests

import torch
from torch import Tensor
from torch.nn import functional


def log_loss(logit_B: Tensor, label_B: Tensor) -> Tensor:
    """Return the mean log loss of ``sigmoid(logit)``, in nats an example."""
    return functional.binary_cross_entropy_with_logits(logit_B, label_B)


def listwise(logit_B: Tensor, label_B: Tensor, group_B: Tensor, groups: int) -> Tensor:
    """Return the softmax cross-entropies over each request's rows: their sum, divided by B.

    ListNet's top-one loss (Cao et al., ICML 2007) with the labels as target: several positives
    share its mass. Requests without a positive, or of one row, say nothing about order and count
    nothing. ``group_B`` (int64) numbers the requests 0 … ``groups`` − 1; their rows may lie
    anywhere. Summed in row order by `index_add`, so that every run gives the same.
    """
    nothing_G = torch.zeros(groups)
    rows_G = nothing_G.index_add(0, group_B, torch.ones_like(label_B))
    positives_G = nothing_G.index_add(0, group_B, label_B)
    share_G = torch.where((positives_G > 0) & (rows_G > 1), 1 / positives_G.clamp(min=1e-12), 0.0)
    target_B = label_B * share_G.index_select(0, group_B)
    top_G = torch.full((groups,), -torch.inf)
    top_G = top_G.scatter_reduce(0, group_B, logit_B.detach(), "amax")
    shifted_B = logit_B - top_G.index_select(0, group_B)
    log_sum_G = nothing_G.index_add(0, group_B, shifted_B.exp()).log()
    log_share_B = shifted_B - log_sum_G.index_select(0, group_B)
    return -(target_B * log_share_B).sum() / logit_B.shape[0]
