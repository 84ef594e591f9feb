"""Our AdamW against torch's, for one network and for several side by side."""

import pytest
import torch

from mmnet.adamw import AdamW

SHAPES = ((3, 5), (5,))
CLIP = 1.0


def parameters(seed, count=None):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*([count] if count else []), *shape, generator=generator)) for shape in SHAPES]


def groups(members):
    return [{"params": [part], "share": 1.0, "weight_decay": decay} for part, decay in zip(members, (0.1, 0.0), strict=True)]


def ours(members, networks=None):
    optimizer = AdamW(groups(members), CLIP, networks)
    for group in optimizer.groups:
        group["lr"] = 0.02
    return optimizer


def give(members, seed):
    """Gradients of very different norms: above and below the clip."""
    generator = torch.Generator().manual_seed(seed)
    for part in members:
        part.grad = torch.randn(part.shape, generator=generator) * 10.0 ** (seed % 3 - 2)


def test_reference_torch_takes_the_same_steps():
    mine, theirs = parameters(0), parameters(0)
    optimizer, reference = ours(mine), torch.optim.AdamW(groups(theirs), lr=0.02)
    for seed in range(6):
        for members in (mine, theirs):
            give(members, seed)
        torch.nn.utils.clip_grad_norm_(theirs, CLIP)
        reference.step()
        optimizer.step()
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two)


def test_networks_side_by_side_take_the_steps_that_each_takes_alone_and_rest_by_themselves():
    whole = parameters(1, 3)
    alone = [[torch.nn.Parameter(part[number].detach().clone()) for part in whole] for number in range(3)]
    together, each = ours(whole, 3), [ours(members) for members in alone]
    for seed in range(6):
        trains = [True, seed != 3, seed % 2 == 0]
        give(whole, seed)
        for number, members in enumerate(alone):
            for part, stacked in zip(members, whole, strict=True):
                part.grad = stacked.grad[number].clone()
            if trains[number]:
                each[number].step()
        together.step(trains)
    for number, members in enumerate(alone):
        for part, stacked in zip(members, whole, strict=True):
            torch.testing.assert_close(stacked[number], part)


@pytest.mark.parametrize("networks", [None, 3])
def test_a_restored_optimizer_goes_on_with_the_same_steps(networks):
    members = parameters(2, networks)
    optimizer = ours(members, networks)
    for seed in range(3):
        give(members, seed)
        optimizer.step()
    restored = [torch.nn.Parameter(part.detach().clone()) for part in members]
    again = ours(restored, networks)
    again.load_state_dict(optimizer.state_dict())
    for one, other in ((optimizer, members), (again, restored)):
        give(other, 4)
        one.step()
    for one, two in zip(members, restored, strict=True):
        assert torch.equal(one, two)


def test_parameters_without_a_gradient_stay():
    members = parameters(3)
    optimizer, before = ours(members), members[1].detach().clone()
    members[0].grad = torch.ones(3, 5)
    optimizer.step()
    assert torch.equal(members[1], before) and members[0].grad is None
