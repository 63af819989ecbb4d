# One fit for each tokenizer: a PCA serves every dimension, and every fit every scaling. The convolutional ones are
# trained, and leave the training set's latents beside their weights. The small classifiers serve as perceptual loss, and
# judge samples.


rule tokenizer:
    input:
        inputs_of("tokenizer"),
    output:
        "<results>/tokenizers/{tokenizer}/seed{seed}/tokenizer.safetensors",
        "<results>/tokenizers/{tokenizer}/seed{seed}/tokenizer.json",
    log:
        "<logs>/tokenizers/{tokenizer}/seed{seed}.log",
    benchmark:
        "<benchmarks>/tokenizers/{tokenizer}/seed{seed}.tsv"
    wildcard_constraints:
        tokenizer=names_of("tokenizer"),
    priority: priority_of("tokenizer")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("tokenizer"),
    params:
        options=options_of("tokenizer"),
    message:
        "fitting tokenizer {wildcards.tokenizer}, seed {wildcards.seed}"
    shell:
        "ldae fit-tokenizer {params.options} --threads {threads} > {log} 2>&1"


rule convolutional_tokenizer:
    input:
        inputs_of("convolutional_tokenizer"),
    output:
        "<results>/tokenizers/{tokenizer}/seed{seed}/tokenizer.safetensors",
        "<results>/tokenizers/{tokenizer}/seed{seed}/tokenizer.json",
        "<results>/tokenizers/{tokenizer}/seed{seed}/latents.npy",
        "<results>/tokenizers/{tokenizer}/seed{seed}/latents_checksums.npy",
        "<results>/tokenizers/{tokenizer}/seed{seed}/history.csv",
    log:
        "<logs>/tokenizers/{tokenizer}/seed{seed}.log",
    benchmark:
        "<benchmarks>/tokenizers/{tokenizer}/seed{seed}.tsv"
    wildcard_constraints:
        tokenizer=names_of("convolutional_tokenizer"),
    priority: priority_of("convolutional_tokenizer")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("convolutional_tokenizer"),
    params:
        options=options_of("convolutional_tokenizer"),
    message:
        "training tokenizer {wildcards.tokenizer}, seed {wildcards.seed}"
    shell:
        "ldae train-tokenizer {params.options} --threads {threads} --processes {resources.gpu} --recompute {resources.recompute}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"


rule classifier:
    input:
        inputs_of("classifier"),
    output:
        "<results>/classifiers/{architecture}/seed{seed}/weights.safetensors",
        "<results>/classifiers/{architecture}/seed{seed}/classifier.json",
        "<results>/classifiers/{architecture}/seed{seed}/history.csv",
    log:
        "<logs>/classifiers/{architecture}/seed{seed}.log",
    benchmark:
        "<benchmarks>/classifiers/{architecture}/seed{seed}.tsv"
    priority: priority_of("classifier")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("classifier"),
    params:
        options=options_of("classifier"),
    message:
        "training classifier {wildcards.architecture}, seed {wildcards.seed}"
    shell:
        "ldae train-classifier {params.options} --threads {threads} --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"
