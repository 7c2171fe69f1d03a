"""Before `data`: a collection becomes a training set, and every clip that is left out says why.

    curate      the whole of it: scan, choose, work, write; Ctrl-C or a kill, and the same command goes on
    sources     a folder, MTG-Jamendo, WebDataset shards or a Hugging Face data set -> tracks
    recipe      the stages and their options, in order, from YAML
    stages      the table of stages; those before `cut` look at a track, those after it at a clip
    scan        what is read of every track first: header, checksum, fingerprint
    work        one track through the stages; pool, ray_run: many of them, in processes or through Ray Data
    dataset     the result: FLAC or Opus, Parquet, captions.jsonl for `ostinato prepare`, a data card
    report      the funnel, beside the paper's; card: the data card
    clip        a clip and a drop; caption_files, duplicates, separate (spleeter), voices, captioners, lp_musiccaps,
                merge, endpoint: stages that need files, a network or a model; jamendo: MTG-Jamendo's tables

A stage is a function that takes its options and gives a function from a clip to a clip, or to a `Drop`.
"""
