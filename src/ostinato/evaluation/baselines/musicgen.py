"""MusicGen (arXiv 2306.05284) of transformers as a target of `ostinato evaluate`: the papers' baseline."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from ostinato.generation.pipeline import Clip
from ostinato.utils.errors import UserError
from ostinato.utils.hub import fetch, load_model


class MusicGen:
    """`generate` as `ostinato.Ostinato.generate` has it, with the papers' settings: guidance 3, top-k 250 and
    temperature 1.2 (arXiv 2601.14786, section IV-A: "all generation models")."""

    def __init__(self, source: str | Path, device: str = "cpu"):
        self.model = load_model(MusicgenForConditionalGeneration, source).to(device).eval()
        self.tokenizer = fetch(AutoTokenizer.from_pretrained, source)
        config = self.model.config.audio_encoder
        self.sample_rate, self.frame_rate = config.sampling_rate, config.frame_rate
        self.source, self.device = str(source), device

    @torch.no_grad()
    def generate(
        self, prompts: list[str], seconds: float, seed: int = 0, on_frame: Callable[[int, int], None] | None = None
    ) -> list[Clip]:
        """One Clip a prompt. transformers draws a whole batch from one generator, so that here a clip depends on what
        else is in its batch; evaluation makes them one by one. Raises UserError for seconds <= 0."""
        if not 0 < seconds < float("inf"):
            raise UserError(f"seconds must be above 0, got {seconds:g}")
        clips = []
        for i, prompt in enumerate(prompts):
            torch.manual_seed(seed + i)
            frames = round(seconds * self.frame_rate)
            words = self.tokenizer([prompt], return_tensors="pt").to(self.device)
            # The delay pattern takes as many more steps as there are codebooks; what they decode to is cut off.
            audio = self.model.generate(
                **words,
                do_sample=True,
                guidance_scale=3.0,
                top_k=250,
                temperature=1.2,
                max_new_tokens=frames + self.model.config.decoder.num_codebooks,
            )[0].float()
            audio = audio[:, : round(seconds * self.sample_rate)].clamp(-1, 1).cpu()
            clips.append(Clip(audio, self.sample_rate, torch.zeros(0, 0, dtype=torch.long), prompt))
            if on_frame:
                on_frame(frames, frames)
        return clips

    @property
    def parameters(self) -> int:
        """Of the language model, as the papers count them; text encoder and codec left out."""
        return sum(p.numel() for p in self.model.decoder.parameters())
