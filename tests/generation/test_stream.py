import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DacConfig, EncodecConfig

from ostinato.codecs.dac import DAC
from ostinato.codecs.encodec import EnCodec
from ostinato.codecs.pocket import PocketCodec, PocketConfig
from ostinato.generation.streaming import decode_frames
from ostinato.utils.errors import UserError


def pocket(lookahead=3):
    torch.manual_seed(0)
    config = PocketConfig(8000, 160, 640, 16, 2, 2, 16, 4, lookahead)
    return PocketCodec(config).eval()


def dac():
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 8, 8],
        upsampling_ratios=[8, 8, 4, 2],
        n_codebooks=2,
        codebook_size=16,
        hidden_size=32,
        sampling_rate=8000,
    )
    return DAC(config)


CODECS = {"pocket": pocket(), "pocket that looks less ahead": pocket(1), "dac": dac()}


@pytest.mark.parametrize("name", CODECS)
@given(T=st.integers(1, 90), piece=st.integers(1, 30), b=st.integers(1, 2))
@settings(max_examples=12, deadline=None)
def test_pieces_are_the_whole(name, T, piece, b):
    codec = CODECS[name]
    codes = torch.randint(16, (b, 2, T), generator=torch.Generator().manual_seed(T))
    parts = [decode_frames(codec, codes, start, min(start + piece, T)) for start in range(0, T, piece)]
    torch.testing.assert_close(torch.cat(parts, -1), codec.decode(codes), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_context_is_no_larger_than_it_must_be(name):
    """One frame is heard as far as `context` and `lookahead` say, and not much less: a stream waits no longer than it
    must."""
    codec, T = CODECS[name], 101
    codes = torch.randint(16, (1, 2, T), generator=torch.Generator().manual_seed(0))
    other = codes.clone()
    other[..., 50] = (other[..., 50] + 3) % 16
    heard = (codec.decode(codes) - codec.decode(other)).abs().view(T, codec.hop).amax(1).nonzero()[:, 0]
    assert 50 - codec.lookahead <= int(heard.min()) <= 50 - codec.lookahead + 2
    assert 50 + codec.context - 2 <= int(heard.max()) <= 50 + codec.context


def test_a_codec_that_depends_on_the_whole_clip_is_refused():
    config = EncodecConfig(target_bandwidths=[1.5], hidden_size=16, num_filters=4, codebook_size=16, codebook_dim=16)
    with pytest.raises(UserError, match="whole clips only"):
        decode_frames(EnCodec(config), torch.zeros(1, 2, 1, dtype=torch.long), 0, 1)
