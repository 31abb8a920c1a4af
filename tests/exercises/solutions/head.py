import torch
from torch import nn


class Head(nn.Module):
    def __init__(self, n_embd, size):
        super().__init__()
        self.query = nn.Linear(n_embd, size, bias=False)
        self.key = nn.Linear(n_embd, size, bias=False)
        self.value = nn.Linear(n_embd, size, bias=False)

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = q @ k.transpose(1, 2) / q.size(-1) ** 0.5
        future = torch.ones(scores.shape[1:]).tril() == 0
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return weights @ v
