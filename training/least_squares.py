"""Ridge regression, for output maps that are fitted instead of trained."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0, 10.0)


def fit(inputs: Tensor, targets: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """Weighted least squares: the ``(features, outputs)`` map from ``inputs`` to ``targets``.

    Parameters
    ----------
    inputs, targets : Tensor, shape (samples, features) and (samples, outputs)
    weight : Tensor, shape (samples,)
    ridge : float
        Relative to the mean square of the features.
    """
    gram, response = _normal(inputs, targets, weight)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, response).to(inputs.dtype)


def refit(
    inputs: Tensor, targets: Tensor, weight: Tensor, prior: Tensor, held_out: Tensor
) -> Tensor:
    """Like `fit`, near a ``prior`` map; how near, the held-out samples decide.

    Parameters
    ----------
    prior : Tensor, shape (features, outputs)
    held_out : Tensor of bool, shape (samples,)
        Samples that are left out of the fit.
    """
    missing = targets - inputs @ prior
    seen = ~held_out
    gram, response = _normal(inputs[seen], missing[seen], weight[seen])
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ response
    scale = gram.diagonal().mean()

    def change(ridge: float) -> Tensor:
        return (vectors @ (turned / (values + ridge * scale)[:, None])).to(inputs.dtype)

    def error(ridge: float) -> float:
        left = missing[held_out] - inputs[held_out] @ change(ridge)
        return float((left.pow(2).mean(-1) * weight[held_out]).sum())

    return prior + change(min(RIDGES, key=error))


def share(found: Tensor, wanted: Tensor) -> float:
    """Share of the variance of ``wanted`` (samples, features) that ``found`` has."""
    left = (found - wanted).pow(2).sum()
    return float(1 - left / (wanted - wanted.mean(0)).pow(2).sum())


def _normal(inputs: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    weighted = (inputs * weight[:, None]).T
    return (weighted @ inputs).double(), (weighted @ targets).double()
