"""Muon (Jordan et al., 2024) in float32 for the matrices of the layers.

Momentum, then an approximate orthogonalisation of each update by five Newton-Schulz steps.
torch.optim.Muon does these in bfloat16, which CPUs without bfloat16 instructions emulate.
"""

from collections import defaultdict

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices, lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            # Matrices of one shape are orthogonalised together: few large products instead of many small.
            by_shape = defaultdict(list)
            for matrix in group["params"]:
                by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                updates = orthogonalise(torch.stack([self._nesterov(matrix) for matrix in matrices]))
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                for matrix, update in zip(matrices, updates):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _nesterov(self, matrix: torch.Tensor) -> torch.Tensor:
        state = self.state[matrix]
        momentum = state.setdefault("momentum", torch.zeros_like(matrix))
        momentum.lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(momentum, MOMENTUM)


def orthogonalise(x: torch.Tensor) -> torch.Tensor:
    """x: (matrices, rows, columns); the singular values of the result lie around 1."""
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
