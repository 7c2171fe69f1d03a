"""From a store to a checkpoint folder: `ostinato train CONFIG`. Read `trainer` first.

trainer                           the loop: accumulation, validation, checkpoints, resume; the same for every task
lm_task, fine_task, codec_task    what is trained: modules, batches, losses; codes_task: what the first two share
settings, config                  the YAML files, read without torch, then as dataclasses; init_from: whose weights
optimizer, muon                   AdamW and Muon, and the learning-rate schedule; Muon in float32
checkpoint                        what a checkpoint holds, written whole or not at all, pruned by a rule
batch_order                       which clips and seeds make up a step, as functions of the step
log                               log.jsonl, a line for each logged step
compilation, ssd_backend          torch.compile of each part; what computes SSD on a GPU
ema, distributed, throughput      averaged weights; several processes; speed
plan, flops, memory, probe, fit   what a run will cost, before it runs (`--plan`), and does it fit? gpus: by name
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "trainer": ["train"],
        "config": ["Run", "load_run"],
    },
)
