"""What is exported, as modules that tracing can follow: numbers in, numbers out, every state an input and an output.

One clip at a time. r counts its rows: 1, or 2 with guidance, with the text and without it.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.codecs.base import Codec
from ostinato.codecs.pocket import PocketCodec, overlap_add
from ostinato.generation.diffusion import code_velocity
from ostinato.generation.fine_stage import FineStage, code_table
from ostinato.models.attention import CrossAttention, SelfAttention, TextState
from ostinato.models.lm import MusicLM, sinusoids
from ostinato.models.mamba import Mamba2
from ostinato.models.minilm import BertEncoder
from ostinato.models.text_encoder import Tokens


class Text(nn.Module):
    """ids [1, s] -> one vector a token [1, s, w]."""

    def __init__(self, encoder: Tokens):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        if isinstance(self.encoder.model, BertEncoder):
            return read_alone(self.encoder.model, ids)
        return self.encoder.read(ids, torch.ones_like(ids, dtype=torch.bool))


def read_alone(bert: BertEncoder, ids: Tensor) -> Tensor:
    """`BertEncoder` of one text: PyTorch's own layer of attention leaves the length that was traced in the graph."""
    x = bert.norm(bert.words(ids) + bert.kind + bert.places.weight[: ids.shape[1]])
    for layer in bert.layers.layers:
        a: Any = layer.self_attn
        q, k, v = (
            F.linear(x, a.in_proj_weight, a.in_proj_bias).unflatten(-1, (3, a.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = layer.norm1(x + a.out_proj(y))  # type: ignore[operator]
        x = layer.norm2(x + layer.linear2(F.gelu(layer.linear1(x))))  # type: ignore[operator]
    return x


class Read(nn.Module):
    """text [1, s, w] -> what `Step` takes of it: the prefix [1, s, d], or the keys and values [1, heads, s, d / heads]
    of each cross-attention."""

    def __init__(self, lm: MusicLM):
        super().__init__()
        self.lm = lm

    def names(self) -> list[str]:
        if self.lm.variant.text == "prefix":
            return ["prefix"]
        layers = [i for i, layer in enumerate(self.lm.layers) if layer.kind == "cross-attention"]
        return [f"text_{what}.{i}" for i in layers for what in "kv"]

    def forward(self, text: Tensor) -> tuple[Tensor, ...]:
        if self.lm.variant.text == "prefix":
            return (self.lm.condition(text),)
        states = self.lm.text_states(text, torch.ones_like(text[..., 0], dtype=torch.long))
        return tuple(t for state in states if isinstance(state, TextState) for t in (state.k, state.v))


class Step(nn.Module):
    """A step of the language model, and its sample: the codes of the last step in, those of the next one out.

    codes [1, K], where codebook_size + 1 stands for none at all; prefix [r, d], a vector of the text to be read in
    place of codes, else zeros; text_mask [r, s] (true at tokens) and keys and values, where the text is read by
    cross-attention; noise [1, K, codebook_size], exponential; guidance, temperature (0: the likeliest code), top_k (0:
    all) and top_p, []; position [r], where positions are added; and the state of each layer.
    """

    def __init__(self, lm: MusicLM):
        super().__init__()
        self.lm = lm
        nothing = torch.zeros(1, lm.config.width)
        tables = [table.weight for table in lm.embedding]
        self.tables = nn.ParameterList(torch.cat([table, nothing.to(table)]) for table in tables)  # type: ignore

    def state(self, rows: int) -> dict[str, Tensor]:
        """The state before the first step."""
        found: dict[str, Tensor] = {}
        if self.lm.positions != "none":
            found["position"] = torch.zeros(rows, dtype=torch.long)
        for i, layer in enumerate(self.lm.layers):
            mixer = layer.mixer
            if isinstance(mixer, Mamba2):
                channels = mixer.inner + 2 * mixer.n
                found[f"conv.{i}"] = torch.zeros(rows, mixer.conv1d.kernel_size[0] - 1, channels)
                found[f"ssm.{i}"] = torch.zeros(rows, mixer.h, mixer.p, mixer.n)
            elif isinstance(mixer, SelfAttention):
                empty = torch.zeros(rows, mixer.heads, 0, self.lm.config.width // mixer.heads)
                found |= {f"k.{i}": empty, f"v.{i}": empty}
        return found

    def text(self, rows: int, tokens: int) -> dict[str, Tensor]:
        """Names and shapes of what it takes of the text."""
        if self.lm.variant.text == "prefix":
            return {"prefix": torch.zeros(rows, self.lm.config.width)}
        c = self.lm.config
        keys = {name: torch.zeros(rows, c.heads, tokens, c.width // c.heads) for name in Read(self.lm).names()}
        return {"text_mask": torch.ones(rows, tokens, dtype=torch.bool)} | keys

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The codes [1, K], then the state."""
        x = torch.stack([table[inputs["codes"][:, k]] for k, table in enumerate(self.tables)]).sum(0)
        x = x + inputs["prefix"] if "prefix" in inputs else x.expand(inputs["text_mask"].shape[0], -1)
        after: list[Tensor] = []
        if "position" in inputs:
            x = x + sinusoids(inputs["position"].unsqueeze(1), x.shape[-1], self.lm.positions).squeeze(1).to(x.dtype)
            after.append(inputs["position"] + 1)
        layers: list[Any] = list(self.lm.layers)
        for i, layer in enumerate(layers):
            u, mixer = layer.norm(x), layer.mixer
            if isinstance(mixer, Mamba2):
                y, *state = mamba(mixer, u, inputs[f"conv.{i}"], inputs[f"ssm.{i}"])
                after += state
            elif isinstance(mixer, SelfAttention):
                y, *state = attend(mixer, u, inputs[f"k.{i}"], inputs[f"v.{i}"])
                after += state
            elif isinstance(mixer, CrossAttention):
                text = TextState(inputs[f"text_k.{i}"], inputs[f"text_v.{i}"], inputs["text_mask"])
                y = mixer.step(u, text)
            else:
                y = mixer(u)
            x = x + y
        logits = self.lm.logits(x.unsqueeze(1)).squeeze(2)[..., : self.lm.special]
        logits = guided(logits, inputs["guidance"])
        return sampled(logits, *(inputs[name] for name in ("noise", "temperature", "top_k", "top_p"))), *after


def mamba(m: Mamba2, u: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Mamba2.step` that changes nothing in place."""
    z, xBC, dt = m.in_proj(u).split([m.inner, m.inner + 2 * m.n, m.h], -1)
    dt = F.softplus(dt + m.dt_bias)
    window = torch.cat([conv, xBC.unsqueeze(1)], 1)
    xBC = F.silu((window * m.conv1d.weight.squeeze(1).T).sum(1) + m.conv1d.bias)  # type: ignore[operator]
    x, B, C = xBC.split([m.inner, m.n, m.n], -1)
    x = x.unflatten(-1, (m.h, m.p))
    decay = (dt * -m.A_log.exp()).exp()
    ssm = ssm * decay[..., None, None] + (x * dt.unsqueeze(-1)).unsqueeze(-1) * B[:, None, None]
    y = (ssm @ C[:, None, :, None]).squeeze(-1) + x * m.D.unsqueeze(-1)
    return m.out_proj(m.norm(y.flatten(1), z)), window[:, 1:], ssm


def attend(m: SelfAttention, u: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`SelfAttention.step` with keys and values that grow by concatenation."""
    q, own_k, own_v = m.in_proj(u).unflatten(-1, (3, m.heads, 1, -1)).unbind(1)
    k, v = torch.cat([k, own_k], 2), torch.cat([v, own_v], 2)
    y = F.scaled_dot_product_attention(q, k, v)
    return m.out_proj(y.flatten(1)), k, v


def guided(both: Tensor, guidance: Tensor) -> Tensor:
    """Rows [r, ...] with the text first -> [1, ...]: classifier-free guidance; of one row, itself."""
    with_text, without = both[:1], both[-1:]
    return without + guidance * (with_text - without)


def sampled(logits: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """`generation.sampling.sample` of logits [1, K, V] with its noise given: codes [1, K]."""
    greedy = temperature == 0
    logits = logits / torch.where(greedy, 1.0, temperature)
    ordered, _ = logits.sort(-1, descending=True)
    beyond = (torch.arange(logits.shape[-1]) >= top_k) & (top_k > 0)
    odds = ordered.masked_fill(beyond, float("-inf")).softmax(-1)
    kept = (odds.cumsum(-1) - odds < top_p) & ~beyond  # with the code that crosses top_p
    least = ordered.masked_fill(~kept, float("inf")).amin(-1, keepdim=True)
    # Exponential noise on odds is the Gumbel-max trick; 0 has no logarithm.
    lot = torch.where(greedy, 0.0, noise.clamp(min=1e-9).log())
    return (logits - lot).masked_fill(logits < least, float("-inf")).argmax(-1)


class Denoise(nn.Module):
    """A step of a sampler over a window of T frames: noisy latents x [1, F, T] -> those of the next step, and the clean
    ones that the denoiser tells, [1, F, T].

    codes [1, 1, T]: the coarse codes; real [1, T]: false at padding, which stands after all real frames; text [r, s, w]
    and text_mask [r, s]; before [1, F, T]: the clean latents of the step before; noise [1, F, T]; step [7]: a
    `generation.schedule.Step`; guidance and temperature [].
    """

    def __init__(self, stage: FineStage):
        super().__init__()
        c, codec = stage.sizes, stage.codec
        self.denoiser, self.by_codes = stage.denoiser, c.prediction_type == "codes"
        every = torch.arange(codec.codebook_size).expand(1, 1, -1)
        self.coarse = nn.Parameter(stage.scale.apply(codec.codes_to_latents(every))[0].T.contiguous())  # [V, C]
        if self.by_codes:
            self.table = nn.Parameter(code_table(codec, stage.scale))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x, text = inputs["x"], inputs["text"]
        r = text.shape[0]
        time, alpha, sigma, keep, take, before, fresh = inputs["step"].unbind(0)
        coarse = self.coarse[inputs["codes"][:, 0]].mT.expand(r, -1, -1)
        noisy, times, real = x.expand(r, -1, -1), time.expand(r), inputs["real"].expand(r, -1)
        v = self.denoiser(noisy, coarse, times, text, inputs["text_mask"], real) / inputs["temperature"]  # of v it is 1
        if self.by_codes:
            v = code_velocity(v, noisy, times, self.table)
        clean = alpha * x - sigma * guided(v, inputs["guidance"])
        return keep * x + take * clean + before * inputs["before"] + fresh * inputs["noise"], clean


class DecodeCodes(nn.Module):
    """codes [1, K, n] -> audio [1, n * hop]."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec: Any = PocketSound(codec) if isinstance(codec, PocketCodec) else codec

    def forward(self, codes: Tensor) -> Tensor:
        return self.codec.decode(codes)[:, 0]


class DecodeLatents(nn.Module):
    """coarse codes [1, 1, n] and fine latents [1, F, n], as `Denoise` has them -> audio [1, n * hop] and all codes
    [1, K, n]."""

    def __init__(self, stage: FineStage):
        super().__init__()
        self.codec: Any = PocketSound(stage.codec) if isinstance(stage.codec, PocketCodec) else stage.codec
        self.scale, self.first, self.snapped = stage.scale, stage.sizes.coarse, stage.sampling.snapped

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        codec = self.codec
        latents = torch.cat([codec.codes_to_latents(coarse), self.scale.undo(fine, self.first)], 1)
        codes = torch.cat([coarse, codec.latents_to_codes(latents)[:, 1:]], 1)
        heard = codec.codes_to_latents(codes) if self.snapped else latents
        return codec.decode_latents(heard)[:, 0], codes


class PocketSound(nn.Module):
    """`PocketCodec`, its way back only, with the inverse Fourier transform as a product with its matrix, for runtimes
    that have no transform. The matrix is made of two rows of numbers where the graph is loaded, and fills no file."""

    window: Tensor
    bins: Tensor
    samples: Tensor

    def __init__(self, codec: PocketCodec):
        super().__init__()
        self.hop, N = codec.hop, codec.config.window
        self.quantiser, self.decoder, self.synthesise = codec.quantiser, codec.decoder, codec.synthesise
        self.register_buffer("window", codec.window)
        self.register_buffer("bins", torch.arange(N // 2 + 1)[:, None])
        self.register_buffer("samples", torch.arange(N))

    def codes_to_latents(self, codes: Tensor) -> Tensor:
        return self.quantiser.latents(codes)

    def latents_to_codes(self, latents: Tensor) -> Tensor:
        parts = latents.mT.split(self.quantiser.codebook.shape[-1], -1)
        return torch.stack([self.quantiser.nearest(k, x) for k, x in enumerate(parts)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.decode_latents(self.codes_to_latents(codes))

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `PocketCodec.decode_latent`."""
        x = self.quantiser.decode(latents)
        log_magnitude, phase = self.synthesise(self.decoder(x)).chunk(2, -1)
        magnitude, N = log_magnitude.clamp(max=6.0).exp(), len(self.window)
        angle = (self.bins * self.samples % N).float() * (2 * math.pi / N)  # the rest: a large angle would be inexact
        twice = torch.where(self.bins % (N // 2) == 0, 1 / N, 2 / N)  # bins beyond the middle are these once more
        frames = (magnitude * phase.cos()) @ (angle.cos() * twice) - (magnitude * phase.sin()) @ (angle.sin() * twice)
        ones = (self.window * self.window).expand(1, x.shape[1], -1)
        return (overlap_add(frames * self.window, self.hop) / overlap_add(ones, self.hop)).unsqueeze(1)
