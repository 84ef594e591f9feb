"""The channel gate against torchvision's squeeze-and-excitation block."""

import torch

from mmnet.channel_attention import ChannelAttention
from mmnet.torchvision_ops import import_torchvision
from tests.mmnet.tiny import randomise

MAPS = torch.randn(2, 3, 32, 4, 5, generator=torch.Generator().manual_seed(0))  # of two magnifications


def test_reference_torchvision_gates_the_same():
    ours = randomise(ChannelAttention(2, 32, reduction=8))
    gates = ours(MAPS.mean((3, 4)))
    for number, maps in enumerate(MAPS):
        theirs = import_torchvision().ops.SqueezeExcitation(32, 4)
        with torch.no_grad():
            for mine, other in ((ours.gate[0], theirs.fc1), (ours.gate[2], theirs.fc2)):
                other.weight.copy_(mine.weight[number].T[:, :, None, None])
                other.bias.copy_(mine.bias[number, 0])
        torch.testing.assert_close(maps * gates[number][:, :, None, None], theirs(maps))


def test_the_gate_is_a_share_of_each_channel_of_each_image():
    gate = randomise(ChannelAttention(2, 32))(MAPS.mean((3, 4)))
    assert gate.shape == (2, 3, 32)
    assert ((gate > 0) & (gate < 1)).all()
    assert not torch.allclose(gate[0, 0], gate[0, 1])
