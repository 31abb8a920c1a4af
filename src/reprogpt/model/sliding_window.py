"""The attention mask of a sliding window: the switch `model.window`."""

import torch
from torch import Tensor


def sliding_window(window: int, T: int, past: int, mask: Tensor | None, positions: Tensor | None,
                   device: torch.device) -> Tensor:
    """``mask`` (None: causal) without keys ``window`` or more positions back: (.., T, S) bool.

    The T queries are the last of S = past + T columns. ``positions`` (T,) or (B, T) int64 gives
    distances that are not those of the columns; then ``past`` is 0.
    """
    columns = torch.arange(past + T, device=device)
    distance = columns[past:, None] - columns  # (T, S): from a query back to a key
    visible = (distance >= 0) if mask is None else mask
    if positions is not None:
        distance = positions[..., :, None] - positions[..., None, :]
        distance = distance if distance.dim() == 2 else distance[:, None]  # (B, 1, T, T): all heads
    return visible & (distance < window)
