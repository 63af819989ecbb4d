"""l-DAE: the deconstruction of diffusion models for self-supervised learning, one row at a time.

Five parts, each with one question, composed by one `Denoiser`:

    tokenizers   how does an image become tokens?
    noise        how strongly are they corrupted at each time step?
    network      what maps noisy tokens to a prediction?
    objective    what is predicted, and how are errors weighed?
    denoiser     the composition: images in, loss out

Stages turn files into files: `prepare`, `fit_tokenizer`, `train_tokenizer`, `train_classifier`, `pretrain`,
`pretrain_baseline`, `probe`, `sample`, `judge`, `denoise`. Readers turn result files into `tables`, `figures` and
verdicts on `claims`; `plan` and `status` tell what a study costs and where it stands. `spec` is the vocabulary,
`variants` turns a study's rows into specs; `launch` starts
several processes for one training, and `ranks` lets them share it.
"""
