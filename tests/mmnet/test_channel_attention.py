"""Channel attention: gates from means and maxima."""

import torch

from mmnet.channel_attention import ChannelAttention
from tests.mmnet.tiny import randomise

MAPS = torch.randn(3, 24, 4, 5, generator=torch.Generator().manual_seed(0))


def test_it_has_the_published_parameters():
    assert sum(parameter.numel() for parameter in ChannelAttention(1280, 0.1).parameters()) == 407_040


def test_gates_by_hand():
    attention = randomise(ChannelAttention(24, 0.0))
    first, second = attention.gate[0].weight, attention.gate[3].weight
    assert first.shape == (8, 48)  # never fewer than 8 hidden units
    seen = torch.cat([MAPS.mean((2, 3)), MAPS.amax((2, 3))], 1)
    torch.testing.assert_close(attention(MAPS), torch.sigmoid(torch.relu(seen @ first.T) @ second.T))


def test_a_single_bright_position_is_seen_where_the_mean_hides_it():
    attention = randomise(ChannelAttention(24, 0.0))
    bright = MAPS.clone()
    bright[0, 0, 0, 0], bright[0, 0, 1, 1] = 9.0, MAPS[0, 0, 1, 1] - (9.0 - MAPS[0, 0, 0, 0])  # the mean stays
    assert not torch.allclose(attention(bright)[0], attention(MAPS)[0])
    torch.testing.assert_close(attention(bright)[1:], attention(MAPS)[1:])
