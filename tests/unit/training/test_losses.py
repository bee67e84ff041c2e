import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from training.losses import DiceBCE


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 8, 8), generator=generator)
    target = (torch.rand((3, 8, 8), generator=generator) > 0.7).to(torch.uint8)
    target[:, :3] = 255
    return logits, target


def test_ignored_pixels_have_no_say_in_value_or_gradient() -> None:
    logits, target = example()
    changed = torch.where(target == 255, logits + 5, logits).requires_grad_()
    loss = DiceBCE()(changed, target)
    assert loss.item() == pytest.approx(DiceBCE()(logits, target).item())
    loss.backward()
    assert (changed.grad[target == 255] == 0).all()
    assert (changed.grad[target != 255] != 0).all()


def test_equal_to_the_same_loss_over_the_known_pixels_alone() -> None:
    logits, target = example()
    known, labels = logits[:, 3:], target[:, 3:].float()
    dice = smp.losses.DiceLoss("binary")(known.unsqueeze(1), labels.unsqueeze(1))
    expected = 0.5 * dice + binary_cross_entropy_with_logits(known, labels)
    assert float(DiceBCE(0.5)(logits, target)) == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_that_knows_nothing_teaches_nothing() -> None:
    logits = torch.ones((2, 4, 4), requires_grad=True)
    loss = DiceBCE()(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
