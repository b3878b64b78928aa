"""Batch norms as part of the convolutions before them: the same network with fewer steps."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(model: nn.Module) -> None:
    """Fold, in place, every BatchNorm2d whose parent lists a convolution right before it.

    ResNets of torchvision list what they apply in the order of application. A norm behind a
    deformable convolution stays. ``model`` must be in evaluation mode; it can no longer be trained.
    """
    for parent in list(model.modules()):
        for (before, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, name, nn.Identity())
