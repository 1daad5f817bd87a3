"""A rough look at a draft's head, which says where the true one is worth reading (SVD-softmax: Shim et al. 2017).

Shapes: V tokens, r the screen's rank, K input features.
"""

from torch import nn

from shard_worker.model.linear import FloatLinear, Int8Linear


class HeadScreen(nn.Module):
    """Rough logits are up(down(x)): down [r, K], up [V, r]. In native code, for few rows at once, only the rows of the
    head that lie in the `num_panels` panels of PANEL_ROWS with the best rough logits are read, and all other logits are
    minus infinity. PyTorch reads the whole head.
    """

    def __init__(self, down: FloatLinear, up: Int8Linear, num_panels: int) -> None:
        super().__init__()
        assert down.out_features == up.in_features and num_panels > 0
        self.down, self.up, self.num_panels = down, up, num_panels
