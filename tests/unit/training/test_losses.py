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


def test_weights_of_one_change_nothing() -> None:
    logits, target = example()
    weighted = DiceBCE()._weighted(logits, target, target != 255, torch.ones(3))
    assert float(weighted) == pytest.approx(float(DiceBCE()(logits, target)), rel=1e-5)
    assert DiceBCE()(logits, target, torch.ones(3)) == DiceBCE()(logits, target)


def test_a_weight_counts_a_chip_that_often() -> None:
    logits, target = example()
    target[0] = 0  # a hard negative
    twice, thrice = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([3.0, 1.0, 1.0])
    repeated = [0, 0, 1, 2], [0, 0, 0, 1, 2]
    for weight, rows in zip((twice, thrice), repeated, strict=True):
        dice = smp.losses.DiceLoss("binary", ignore_index=255)(
            logits[rows].unsqueeze(1), target[rows].float().unsqueeze(1)
        )
        known = target != 255
        each = binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
        entropy = (each * weight[:, None, None])[known].sum() / known.sum()
        assert float(DiceBCE()(logits, target, weight)) == pytest.approx(float(dice + entropy), rel=1e-5)


def test_the_gradient_of_a_heavy_chip_grows() -> None:
    logits, target = example()
    target[0] = 0
    grown = []
    for weight in (1.0, 2.0):
        leaf = logits.clone().requires_grad_()
        DiceBCE()(leaf, target, torch.tensor([weight, 1.0, 1.0])).backward()
        grown.append(leaf.grad[0].abs().sum())
    assert grown[1] > 1.5 * grown[0]
